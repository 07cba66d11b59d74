// What all plots look alike in.

export const AXIS = { stroke: "#8b98a5", grid: { stroke: "#19212b", width: 1 }, ticks: { stroke: "#26303b", width: 1, size: 4 }, font: "11px system-ui, sans-serif" };

/** A value with the digits that matter. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace("e+", "e");
  if (size >= 10000) return `${(value / 1000).toFixed(1)}k`;
  if (size >= 100) return value.toFixed(0);
  return String(Number(value.toPrecision(3)));
}
