"""HTTP and WebSocket edge: parse, one call, return."""
