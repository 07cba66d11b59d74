// A WebSocket of the orchestrator that stays open: single-use tickets, backoff, and polling while it cannot.
//
// The browser never holds an API key. For every connection it asks the page's Python side (a Streamlit trigger named
// "ask") for a new ticket; the answer comes back in the component's data as `reply`, named by the same `n`.

const BACKOFF_MS = [300, 700, 1500, 3000, 6000, 12000, 20000];
const FAILURES_BEFORE_POLLING = 3;
const POLL_MS = 2000;
const REPLY_MS = 15000;
const SETTLED_MS = 3000;
const SILENCE_MS = 45000; // three heartbeats: nobody is at the other end any more
const GIVE_UP_CODES = new Set([4400, 4404]);

/** Where the API's WebSockets are: its public address when it has one, else this page's host with the API's port. */
export function socketUrl(api, path) {
  if (api.base) return api.base.replace(/^http/, "ws").replace(/\/$/, "") + path;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const host = location.hostname.includes(":") ? `[${location.hostname.replace(/[[\]]/g, "")}]` : location.hostname;
  return `${scheme}://${host}:${api.port}${path}`;
}

export class Live {
  #socket = null;
  #asked = null; // {n, kind} of the question without an answer yet
  #serial = 0;
  #failures = 0;
  #timer = null;
  #pollTimer = null;
  #settleTimer = null;
  #silenceTimer = null;
  #closed = false;
  #nonce = `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;

  /**
   * @param path     () => path and query of the WebSocket, asked at every connection: the cursor is in it
   * @param question (kind) => what Python must know to answer "ticket" or "poll"
   * @param onReply  (reply) => void, before the ticket in it is used
   * @param onFrame  (frame) => void
   * @param onState  (state, detail) => void: connecting, live, reconnecting, polling, ended, failed
   */
  constructor({ path, question, onReply, onFrame, onState }) {
    Object.assign(this, { path, question, onReply, onFrame, onState });
    this.state = "connecting";
  }

  /** Called at every render: Streamlit hands out a new trigger function each time. */
  update(api, ask, reply) {
    this.api = api;
    this.ask = ask;
    if (reply && this.#asked && reply.n === this.#asked.n) {
      const { kind } = this.#asked;
      this.#asked = null;
      clearTimeout(this.#timer);
      if (reply.error) {
        this.away = true;
        return this.#failed(reply.error);
      }
      if (this.away && kind === "poll") this.#become("polling");
      this.onReply(reply);
      if (this.state === "ended") return;
      if (kind === "ticket") this.#open(reply.ticket);
      else if (this.away) this.start(); // the orchestrator is back: no need to sit out the backoff
      this.away = false;
    }
  }

  start() {
    if (this.#closed || this.#socket) return;
    this.#question("ticket");
  }

  /** Nothing more is to come. */
  end(detail) {
    this.#become("ended", detail);
    this.#stopPolling();
    clearTimeout(this.#timer);
    this.#drop();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#settleTimer);
    this.#stopPolling();
    this.#drop();
  }

  #heard() {
    clearTimeout(this.#silenceTimer);
    this.#silenceTimer = setTimeout(() => {
      this.#drop();
      this.#failed("nothing was heard for a while");
    }, SILENCE_MS);
  }

  /** Try now instead of when the backoff is over. */
  retry() {
    if (this.state === "live" || this.#closed) return;
    this.#drop();
    this.#asked = null;
    this.start();
  }

  #question(kind) {
    if (this.#asked && kind === "poll") return; // a ticket matters more: it may be asked for over an open poll
    const n = `${this.#nonce}-${++this.#serial}`;
    this.#asked = { n, kind };
    this.ask({ n, kind, ...this.question(kind) });
    if (kind === "ticket") {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => {
        this.#asked = null;
        this.#failed("the dashboard did not answer");
      }, REPLY_MS);
    } else {
      setTimeout(() => {
        if (this.#asked?.n === n) this.#asked = null;
      }, REPLY_MS);
    }
  }

  #open(ticket) {
    let socket;
    try {
      socket = new WebSocket(socketUrl(this.api, this.path()));
    } catch (error) {
      return this.#failed(String(error));
    }
    this.#socket = socket;
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: "auth", ticket }));
      this.#stopPolling();
      this.#become("live");
      this.#heard();
      this.#settleTimer = setTimeout(() => (this.#failures = 0), SETTLED_MS);
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      const frame = JSON.parse(data);
      this.#heard();
      if (frame.type === "error" && frame.code) {
        this.detail = frame.message;
        return;
      }
      this.#failures = 0;
      if (frame.type !== "heartbeat") this.onFrame(frame);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      clearTimeout(this.#settleTimer);
      clearTimeout(this.#silenceTimer);
      if (this.#closed || this.state === "ended") return;
      if (GIVE_UP_CODES.has(code)) return this.#become("failed", this.detail || reason);
      this.#failed(this.detail || reason);
    };
  }

  #failed(detail) {
    if (this.#closed || this.state === "ended") return;
    const wait = BACKOFF_MS[Math.min(this.#failures, BACKOFF_MS.length - 1)];
    this.#failures += 1;
    if (this.#failures >= FAILURES_BEFORE_POLLING) {
      this.#become(this.away ? "reconnecting" : "polling", detail);
      this.#startPolling();
    } else {
      this.#become("reconnecting", detail);
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.start(), wait);
  }

  #startPolling() {
    this.#pollTimer ??= setInterval(() => this.#question("poll"), POLL_MS);
  }

  #stopPolling() {
    clearInterval(this.#pollTimer);
    this.#pollTimer = null;
  }

  #drop() {
    clearTimeout(this.#silenceTimer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #become(state, detail = "") {
    this.state = state;
    this.detail = detail;
    this.onState(state, detail);
  }
}

const WORDS = {
  connecting: "connecting",
  live: "live",
  reconnecting: "reconnecting",
  polling: "degraded: polling every 2 s",
  ended: "ended",
  failed: "unavailable",
};

/** Icon, word and colour of a connection. */
export function showState(badge, state, detail) {
  badge.dataset.state = state;
  badge.textContent = state === "ended" && detail ? detail : WORDS[state];
  badge.title = detail || "";
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Load a style sheet that lies beside this module, once. */
export function styleSheet(path) {
  const href = new URL(path, import.meta.url).href;
  const known = document.head.querySelector(`link[href="${href}"]`);
  if (known) return Promise.resolve();
  const link = element("link", { rel: "stylesheet", href });
  document.head.append(link);
  return new Promise((resolve) => (link.onload = link.onerror = resolve));
}
