// The log of a job in xterm.js: streamed by the browser itself, byte offsets as the cursor, "\r" kept for tqdm bars.

import { Terminal } from "./vendor/xterm.mjs";
import { FitAddon } from "./vendor/addon-fit.mjs";
import { SearchAddon } from "./vendor/addon-search.mjs";
import { Live, element, showState, styleSheet } from "./live.js";

const SCROLLBACK_LINES = 20000;
const FLUSH_MS = 40;
const FLUSH_UNDER_LOAD_MS = 100;
const LOAD_CHARS = 64 * 1024;
const FONT = '"Source Code Pro", ui-monospace, "DejaVu Sans Mono", monospace';
const SEARCH = {
  decorations: {
    matchBackground: "#5c4a12",
    matchOverviewRuler: "#ffa657",
    activeMatchBackground: "#b8860b",
    activeMatchColorOverviewRuler: "#ffa657",
  },
};
const THEME = {
  background: "#080b10",
  foreground: "#d5dde6",
  cursor: "#080b10",
  cursorAccent: "#080b10",
  selectionBackground: "#2b4a63",
  black: "#26303b",
  red: "#ff6b6b",
  green: "#3fb950",
  yellow: "#f2cc60",
  blue: "#6cb6ff",
  magenta: "#d2a8ff",
  cyan: "#4cc9f0",
  white: "#d5dde6",
  brightBlack: "#8b98a5",
  brightRed: "#ff8f8f",
  brightGreen: "#56d364",
  brightYellow: "#ffdf8a",
  brightBlue: "#9ecbff",
  brightMagenta: "#e2c5ff",
  brightCyan: "#8be0f8",
  brightWhite: "#ffffff",
};

const consoles = new WeakMap();

export default function ({ parentElement, data, setTriggerValue }) {
  let shown = consoles.get(parentElement);
  if (!shown) {
    shown = new LogConsole(parentElement, data);
    consoles.set(parentElement, shown);
  }
  shown.update(data, setTriggerValue);
  return () => {
    shown.close();
    consoles.delete(parentElement);
  };
}

class LogConsole {
  constructor(host, data) {
    this.job = data.job;
    this.cursor = null; // {attempt, offset}: the next byte wanted
    this.pending = [];
    this.pendingChars = 0;
    this.newLines = 0;
    this.#draw(host);
    this.live = new Live({
      path: () => `/api/jobs/${this.job}/logs?attempt=${this.cursor.attempt}&offset=${this.cursor.offset}&skip=true`,
      question: () => ({ cursor: this.cursor }),
      onReply: (reply) => this.#reply(reply),
      onFrame: (frame) => this.#frame(frame),
      onState: (state, detail) => showState(this.badge, state, detail),
    });
    showState(this.badge, "connecting");
    this.opened = this.#open();
  }

  update(data, setTriggerValue) {
    this.live.update(data.api, (question) => setTriggerValue("ask", question), data.reply);
    if (!this.started) {
      this.started = true;
      this.opened.then(() => this.live.start());
    } else if (this.live.state === "ended" && data.active && !this.active) {
      this.live.state = "connecting"; // a paused job was resumed
      this.live.start();
    }
    this.active = data.active;
  }

  close() {
    this.live.close();
    this.observer?.disconnect();
    clearTimeout(this.flushTimer);
    this.terminal?.dispose();
  }

  #draw(host) {
    const button = (name, label, text, act, extra = {}) =>
      element("button", { type: "button", class: "sf-button", "aria-label": label, title: label, "data-act": name, onclick: act, ...extra }, text);
    this.badge = element("span", { class: "sf-connection", role: "status", "aria-live": "polite" });
    this.query = element("input", { type: "search", class: "sf-search", placeholder: "Search log", "aria-label": "Search log", spellcheck: "false" });
    this.count = element("span", { class: "sf-count", "aria-live": "polite" });
    this.query.addEventListener("input", () => this.#search(1, true));
    this.query.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.#search(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") {
        this.query.value = "";
        this.#search(1);
        this.terminal.focus();
      }
      event.stopPropagation();
    });
    this.jump = button("follow", "Follow the end of the log", "↓ Follow", () => this.#follow(), { hidden: "" });
    this.jump.classList.add("sf-jump");
    this.screen = element("div", { class: "sf-screen" });
    this.hint = element("div", { class: "sf-hint" }, "Waiting for the first line…");
    this.root = element(
      "section",
      { class: "sf-console", "aria-label": "Log" },
      element(
        "div",
        { class: "sf-bar" },
        element("span", { class: "sf-title" }, "Log"),
        this.badge,
        element("span", { class: "sf-space" }),
        this.query,
        this.count,
        button("previous", "Previous match", "↑", () => this.#search(-1)),
        button("next", "Next match", "↓", () => this.#search(1)),
        button("copy", "Copy the selection, or the whole log shown", "Copy", (event) => this.#copy(event.currentTarget)),
        button("clear", "Clear the view; the log itself is kept", "Clear", () => this.#clear()),
        button("download", "Save view: download the lines shown", "Save view", () => this.#download()),
      ),
      element("div", { class: "sf-stage" }, this.screen, this.hint, this.jump),
    );
    host.replaceChildren(this.root);
  }

  async #open() {
    await Promise.allSettled([styleSheet("./live.css"), styleSheet("./vendor/xterm.css"), document.fonts.load('13px "Source Code Pro"'), document.fonts.load('bold 13px "Source Code Pro"')]);
    this.terminal = new Terminal({
      allowProposedApi: true, // the search decorations need it
      convertEol: true,
      cursorBlink: false,
      disableStdin: true,
      fontFamily: FONT,
      fontSize: 13,
      lineHeight: 1.25,
      minimumContrastRatio: 4.5,
      scrollback: SCROLLBACK_LINES,
      screenReaderMode: false,
      theme: THEME,
    });
    this.fit = new FitAddon();
    this.search = new SearchAddon();
    this.terminal.loadAddon(this.fit);
    this.terminal.loadAddon(this.search);
    this.search.onDidChangeResults(({ resultIndex, resultCount }) => {
      this.count.textContent = !this.query.value ? "" : resultCount ? `${resultIndex + 1}/${resultCount}` : "none";
    });
    this.terminal.open(this.screen);
    this.terminal.textarea?.setAttribute("aria-label", "Log output, read only");
    this.terminal.attachCustomKeyEventHandler((event) => this.#key(event));
    this.terminal.onScroll(() => this.#scrolled());
    this.screen.addEventListener("wheel", () => setTimeout(() => this.#scrolled(), 50), { passive: true });
    this.screen.addEventListener("pointerup", () => this.#scrolled());
    this.observer = new ResizeObserver(() => {
      if (this.screen.clientWidth > 0) this.fit.fit();
    });
    this.observer.observe(this.screen);
    this.fit.fit();
    this.root.terminal = this.terminal; // for tests and for the curious
    this.root.dataset.ready = "true";
  }

  #key(event) {
    if (event.type !== "keydown") return true;
    if ((event.ctrlKey || event.metaKey) && event.key === "f") {
      event.preventDefault();
      this.query.focus();
      return false;
    }
    if ((event.ctrlKey || event.metaKey) && event.key === "c") return false; // the browser copies the selection
    const scroll = {
      End: () => this.terminal.scrollToBottom(),
      Home: () => this.terminal.scrollToTop(),
      PageUp: () => this.terminal.scrollPages(-1),
      PageDown: () => this.terminal.scrollPages(1),
      ArrowUp: () => this.terminal.scrollLines(-1),
      ArrowDown: () => this.terminal.scrollLines(1),
    }[event.key];
    if (scroll) {
      event.preventDefault();
      scroll();
      this.#scrolled();
      return false;
    }
    if (event.key === "Tab") return false; // the terminal is no keyboard trap
    return true;
  }

  #reply(reply) {
    if (reply.start && !this.cursor) {
      this.cursor = { attempt: reply.start.attempt, offset: reply.start.offset };
      if (reply.start.skipped_bytes > 0) {
        this.trim = reply.start.offset > 0;
        this.#note(`${size(reply.start.skipped_bytes)} of earlier output not shown; download the log for all of it`);
      }
    }
    for (const frame of reply.frames || []) this.#frame(frame);
  }

  #frame(frame) {
    if (frame.type === "end") {
      this.#flush();
      this.live.end(`ended: ${frame.status}`);
      if (!this.seen) this.hint.textContent = "The job wrote no output.";
      return;
    }
    if (frame.type !== "log" && frame.type !== "skipped") return;
    if (frame.attempt < this.cursor.attempt) return;
    if (frame.attempt > this.cursor.attempt) {
      if (this.seen) this.#note(`attempt ${frame.attempt}`);
      this.cursor = { attempt: frame.attempt, offset: 0 };
    }
    if (frame.offset < this.cursor.offset) return; // repeated after a reconnect
    if (frame.type === "skipped") return this.#skipped(frame);
    if (frame.offset > this.cursor.offset) this.#note(`${size(frame.offset - this.cursor.offset)} skipped`);
    this.cursor.offset = frame.next_offset;
    let text = frame.data;
    if (this.trim) {
      text = text.slice(text.indexOf("\n") + 1); // the first line is only its end
      this.trim = false;
    }
    this.#queue(text);
  }

  #skipped(frame) {
    this.cursor.offset = frame.next_offset;
    this.trim = frame.reason === "slow"; // what follows begins in the middle of a line
    if (frame.reason === "quota") this.#note(`${size(frame.bytes)} dropped here: the log exceeded its quota`);
    else if (frame.reason === "cut") this.#note("the job cut its log here");
    else this.#note(`${size(frame.bytes)} skipped: they came faster than they could be shown; download the log for them`);
  }

  #note(text) {
    this.#queue(`\x1b[0m${this.seen ? "\r\n" : ""}\x1b[90m── ${text} ──\x1b[0m\r\n`);
  }

  #queue(text) {
    if (!text) return;
    this.seen = true;
    this.hint.hidden = true;
    this.pending.push(text);
    this.pendingChars += text.length;
    this.flushTimer ??= setTimeout(() => this.#flush(), this.pendingChars > LOAD_CHARS ? FLUSH_UNDER_LOAD_MS : FLUSH_MS);
  }

  #flush() {
    clearTimeout(this.flushTimer);
    this.flushTimer = null;
    if (!this.pending.length) return;
    const text = this.pending.join("");
    this.pending = [];
    this.pendingChars = 0;
    if (!this.#atEnd()) this.newLines += (text.match(/\n/g) || []).length;
    this.terminal.write(text, () => this.#scrolled());
  }

  #atEnd() {
    const { viewportY, baseY } = this.terminal.buffer.active;
    return viewportY >= baseY;
  }

  #scrolled() {
    if (this.#atEnd()) this.newLines = 0;
    this.jump.hidden = this.#atEnd();
    this.jump.textContent = this.newLines ? `↓ ${this.newLines} new line${this.newLines === 1 ? "" : "s"}` : "↓ Follow";
  }

  #follow() {
    this.terminal.scrollToBottom();
    this.newLines = 0;
    this.#scrolled();
  }

  #search(direction, typing = false) {
    if (!this.terminal) return;
    const text = this.query.value;
    if (!text) {
      this.search.clearDecorations();
      this.terminal.clearSelection();
      this.count.textContent = "";
      return;
    }
    if (direction > 0) this.search.findNext(text, { ...SEARCH, incremental: typing });
    else this.search.findPrevious(text, SEARCH);
  }

  #text() {
    const buffer = this.terminal.buffer.active;
    const lines = [];
    for (let row = 0; row < buffer.length; row++) {
      const line = buffer.getLine(row);
      const text = line.translateToString(true);
      if (line.isWrapped && lines.length) lines[lines.length - 1] += text;
      else lines.push(text);
    }
    while (lines.length && !lines[lines.length - 1]) lines.pop();
    return lines.join("\n") + "\n";
  }

  async #copy(button) {
    const text = this.terminal.getSelection() || this.#text();
    let copied = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      copied = copyByHand(text); // no clipboard API outside a secure context
    }
    button.textContent = copied ? "Copied" : "Not allowed";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  #clear() {
    this.#flush();
    this.terminal.clear();
    this.#scrolled();
  }

  #download() {
    const url = URL.createObjectURL(new Blob([this.#text()], { type: "text/plain" }));
    element("a", { href: url, download: `${this.job}.log` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

function copyByHand(text) {
  const area = element("textarea", { style: "position:fixed;opacity:0" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let at = 0;
  while (bytes >= 1000 && at < units.length - 1) {
    bytes /= 1000;
    at += 1;
  }
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
}
