// Training curves in uPlot: history from the reply to the first question, then every metrics event as it is stored.

import uPlot from "./vendor/uPlot.esm.js";
import { Live, element, showState, styleSheet } from "./live.js";
import { AXIS, short } from "./plot.js";

const HEIGHT_PX = 256;
const DRAW_MS = 150;
const SETTLE_MS = 2500;
const SMOOTHING = 0.9;
const PREFERRED = ["loss", "fvu", "l0", "dead_share", "lr", "tokens_per_s"];
const WAITING = "Waiting for the first measurement…";
const NOTHING_MEASURED = "No measurements: the job ended before the first one.";
const ALIKE = 0.1; // largest difference of two ranges, as a share of the wider, that leaves one axis readable for both
const SHOWN_FIRST = ["loss", "fvu"];
const COLOURS = {
  loss: "#4cc9f0",
  fvu: "#ffa657",
  l0: "#d2a8ff",
  dead_share: "#ff6b6b",
  lr: "#3fb950",
  tokens_per_s: "#f2cc60",
};
const SPARE_COLOURS = ["#6cb6ff", "#f778ba", "#7ee787", "#e3b341", "#a5d6ff", "#ffa198"];
const NAMES = { loss: "loss", fvu: "FVU", l0: "L0", dead_share: "dead share", lr: "learning rate", tokens_per_s: "tokens/s" };

const charts = new WeakMap();
styleSheet("./live.css");
styleSheet("./vendor/uPlot.min.css");

export default function ({ parentElement, data, setTriggerValue }) {
  let shown = charts.get(parentElement);
  if (!shown) {
    shown = new Curves(parentElement, data);
    charts.set(parentElement, shown);
  }
  shown.update(data, setTriggerValue);
  return () => {
    shown.close();
    charts.delete(parentElement);
  };
}

class Curves {
  constructor(host, data) {
    this.job = data.job;
    this.steps = [];
    this.columns = {}; // metric name -> values, one per step, null where it was not measured
    this.marks = []; // steps of checkpoints
    this.after = 0;
    this.active = null; // names shown; chosen when the first values arrive
    this.logarithmic = false;
    this.smooth = false;
    this.#draw(host);
    this.live = new Live({
      path: () => `/api/events?job=${this.job}&after=${this.after}`,
      question: (kind) => ({ history: kind === "poll" || !this.loaded }),
      onReply: (reply) => this.#reply(reply),
      onFrame: (frame) => this.#event(frame),
      onState: (state, detail) => {
        showState(this.badge, state, detail);
        this.hint.textContent = state === "ended" ? NOTHING_MEASURED : WAITING;
        if (!this.running && ["live", "polling"].includes(state)) this.#settle();
      },
    });
    showState(this.badge, "connecting");
  }

  update(data, setTriggerValue) {
    const resumed = data.active && this.running === false;
    this.running = data.active;
    this.status = data.status;
    this.live.update(data.api, (question) => setTriggerValue("ask", question), data.reply);
    if (!this.started) {
      this.started = true;
      this.live.start();
    } else if (this.live.state === "ended" && resumed) {
      this.live.state = "connecting";
      this.live.start();
    }
    if (!data.active && ["live", "polling"].includes(this.live.state)) this.#settle();
  }

  close() {
    this.live.close();
    this.observer.disconnect();
    clearTimeout(this.drawTimer);
    clearTimeout(this.settleTimer);
    this.plot?.destroy();
  }

  /** The job is over: listen a moment longer for the last events, then say so. */
  #settle() {
    clearTimeout(this.settleTimer);
    this.settleTimer = setTimeout(() => {
      if (!this.running) this.live.end(`ended: ${this.status}`);
    }, SETTLE_MS);
  }

  #draw(host) {
    const toggle = (name, label, title) => {
      const button = element("button", { type: "button", class: "sf-button", "aria-pressed": "false", title, onclick: () => this.#toggle(name, button) }, label);
      return button;
    };
    this.badge = element("span", { class: "sf-connection", role: "status", "aria-live": "polite" });
    this.chips = element("div", { class: "sf-chips", role: "group", "aria-label": "Metrics shown" });
    this.step = element("span", { class: "sf-count" });
    this.reset = element("button", { type: "button", class: "sf-button", hidden: "", onclick: () => this.#unzoom() }, "Reset zoom");
    this.area = element("div", { class: "sf-plot", role: "img", "aria-label": "Training curves: no measurements yet" });
    this.hint = element("div", { class: "sf-hint" }, WAITING);
    this.root = element(
      "section",
      { class: "sf-curves", "aria-label": "Training curves", "data-points": "0" },
      element(
        "div",
        { class: "sf-bar" },
        element("span", { class: "sf-title" }, "Curves"),
        this.badge,
        element("span", { class: "sf-space" }),
        this.step,
        this.reset,
        toggle("smooth", "Smooth", "Exponential moving average; the raw curve stays visible"),
        toggle("logarithmic", "Log y", "Logarithmic vertical axis"),
      ),
      this.chips,
      element("div", { class: "sf-stage" }, this.area, this.hint),
    );
    host.replaceChildren(this.root);
    this.observer = new ResizeObserver(() => {
      if (this.plot && this.area.clientWidth > 0) this.plot.setSize({ width: this.area.clientWidth, height: HEIGHT_PX });
    });
    this.observer.observe(this.area);
  }

  #reply(reply) {
    if (!reply.history) return;
    this.loaded = true;
    [this.steps, this.columns] = [[], {}];
    this.after = Math.max(this.after, reply.after || 0);
    for (const point of reply.history) this.#add(point.step, point.values);
    this.marks = [...new Set([...this.marks, ...(reply.checkpoints || [])])];
    this.#soon();
  }

  #event(frame) {
    this.after = Math.max(this.after, frame.id);
    if (frame.type === "metrics") {
      if (this.attempt && frame.attempt > this.attempt) this.#rewind(frame.data.step);
      this.attempt = frame.attempt;
      this.#add(frame.data.step, frame.data.values);
    } else if (frame.type === "checkpoint_saved") this.marks.push(frame.data.step);
    else return;
    this.#soon();
  }

  /** Put a measurement in its place; a later attempt's value for the same step replaces the earlier one. */
  #add(step, values) {
    let at = this.steps.length;
    while (at > 0 && this.steps[at - 1] >= step) at -= 1;
    if (this.steps[at] !== step) {
      this.steps.splice(at, 0, step);
      for (const column of Object.values(this.columns)) column.splice(at, 0, null);
    }
    for (const [name, value] of Object.entries(values)) {
      if (!Number.isFinite(value)) continue;
      this.columns[name] ??= new Array(this.steps.length).fill(null);
      this.columns[name][at] = value;
    }
  }

  /** A new attempt measures from here on: what was measured beyond belongs to one that was given up. */
  #rewind(step) {
    const kept = this.steps.filter((other) => other < step).length;
    this.steps.length = kept;
    for (const column of Object.values(this.columns)) column.length = kept;
  }

  #soon() {
    this.drawTimer ??= setTimeout(() => {
      this.drawTimer = null;
      this.#refresh();
    }, DRAW_MS);
  }

  #names() {
    const rank = (name) => (PREFERRED.indexOf(name) + 1 || PREFERRED.length + 1);
    return Object.keys(this.columns).sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  }

  #colour(name) {
    const others = this.#names().filter((other) => !COLOURS[other]);
    return COLOURS[name] || SPARE_COLOURS[others.indexOf(name) % SPARE_COLOURS.length];
  }

  #refresh() {
    const names = this.#names();
    if (!this.steps.length || !names.length) return;
    this.hint.hidden = true;
    if (!this.active) {
      const first = SHOWN_FIRST.filter((name) => names.includes(name));
      this.active = new Set(first.length ? first : names.slice(0, 2));
    }
    if (this.chips.childElementCount !== names.length) this.#drawChips(names);
    if (!this.plot || this.drawnScales !== this.#scales().join()) this.#build();
    else {
      this.plot.setData(this.#table(), !this.zoomed);
      if (this.zoomed) this.plot.redraw(true);
    }
    this.#values(this.plot?.cursor.idx);
    this.root.dataset.points = String(this.steps.length);
    const last = this.steps.length - 1;
    const said = [...this.active].map((name) => `${NAMES[name] || name} ${short(lastOf(this.columns[name]))}`).join(", ");
    this.area.setAttribute("aria-label", `Training curves over ${this.steps.length} measurements; at step ${this.steps[last]}: ${said}`);
  }

  #drawChips(names) {
    this.chips.replaceChildren(
      ...names.map((name) => {
        const chip = element(
          "button",
          { type: "button", class: "sf-chip", "data-metric": name, "aria-pressed": String(this.active.has(name)), onclick: () => this.#choose(name) },
          element("i", { style: `background:${this.#colour(name)}`, "aria-hidden": "true" }),
          element("span", {}, NAMES[name] || name.replaceAll("_", " ")),
          element("b", {}),
        );
        return chip;
      }),
    );
  }

  #choose(name) {
    if (this.active.has(name)) this.active.delete(name);
    else this.active.add(name);
    if (!this.active.size) this.active.add(name);
    for (const chip of this.chips.children) chip.setAttribute("aria-pressed", String(this.active.has(chip.dataset.metric)));
    this.#build();
    this.#values();
  }

  #toggle(name, button) {
    this[name] = !this[name];
    button.setAttribute("aria-pressed", String(this[name]));
    if (this.steps.length) this.#build();
  }

  #unzoom() {
    this.zoomed = false;
    this.reset.hidden = true;
    this.plot?.setData(this.#table(), true);
  }

  #ordered() {
    return this.#names().filter((name) => this.active.has(name));
  }

  /** For each shown metric the name of its scale: that of an earlier metric with nearly the same range, or its own. */
  #scales() {
    const names = this.#ordered();
    const ranges = names.map((name) => rangeOf(this.columns[name]));
    return names.map((_, at) => names[ranges.findIndex((range, other) => other === at || alike(range, ranges[at]))]);
  }

  #table() {
    const columns = this.#ordered().flatMap((name) => {
      const raw = this.logarithmic ? this.columns[name].map((value) => (value > 0 ? value : null)) : this.columns[name];
      return this.smooth ? [raw, averaged(raw)] : [raw];
    });
    return [this.steps, ...columns];
  }

  #build() {
    const window = this.zoomed ? { min: this.plot.scales.x.min, max: this.plot.scales.x.max } : null;
    this.plot?.destroy();
    const names = this.#ordered();
    const scaleOf = this.#scales();
    const scales = [...new Set(scaleOf)];
    this.drawnScales = scaleOf.join();
    const scale = () => ({ distr: this.logarithmic ? 3 : 1, auto: true });
    const line = (name, alpha, width) => ({
      scale: scaleOf[names.indexOf(name)],
      stroke: this.#colour(name) + alpha,
      width,
      spanGaps: true,
      dash: name === "fvu" ? [6, 5] : undefined, // a normalised loss is the FVU: both must be seen
      points: { show: this.steps.length < 2 },
    });
    const axis = (name, side) => ({
      ...AXIS,
      scale: name,
      side,
      stroke: scaleOf.filter((other) => other === name).length > 1 ? AXIS.stroke : this.#colour(name),
      size: 58,
      grid: side === 3 ? AXIS.grid : { show: false },
      values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))),
    });
    this.plot = new uPlot(
      {
        width: Math.max(this.area.clientWidth, 200),
        height: HEIGHT_PX,
        padding: [10, scales.length > 1 ? 0 : 14, 0, 0],
        legend: { show: false },
        cursor: { drag: { x: true, y: false }, points: { size: 7 } },
        scales: { x: { time: false }, ...Object.fromEntries(scales.map((name) => [name, scale()])) },
        series: [
          {},
          ...names.flatMap((name) => (this.smooth ? [line(name, "44", 1), line(name, "", 2)] : [line(name, "", 1.75)])),
        ],
        axes: [
          { ...AXIS, size: 30, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick.toLocaleString("en") : "")) },
          axis(scales[0], 3),
          ...(scales.length > 1 ? [axis(scales[1], 1)] : []),
        ],
        hooks: {
          setCursor: [(plot) => this.#values(plot.cursor.idx)],
          setSelect: [
            (plot) => {
              if (plot.select.width > 0) {
                this.zoomed = true;
                this.reset.hidden = false;
              }
            },
          ],
          draw: [(plot) => this.#drawMarks(plot)],
        },
      },
      this.#table(),
      this.area,
    );
    this.plot.over.addEventListener("dblclick", () => this.#unzoom());
    if (window) this.plot.setScale("x", window);
  }

  #drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = "#8b98a566";
    ctx.lineWidth = 1;
    ctx.setLineDash([3, 4]);
    for (const step of this.marks) {
      const x = Math.round(plot.valToPos(step, "x", true)) + 0.5;
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** Show on the chips what the cursor points at, or the newest values. */
  #values(index) {
    const at = index ?? null;
    for (const chip of this.chips.children) {
      const column = this.columns[chip.dataset.metric];
      const value = at === null ? lastOf(column) : column?.[at];
      chip.lastChild.textContent = short(value);
    }
    this.step.textContent = this.steps.length ? `step ${(this.steps[at ?? this.steps.length - 1] ?? 0).toLocaleString("en")}` : "";
  }
}

function averaged(values) {
  let mean = null;
  return values.map((value) => {
    if (value === null) return mean;
    mean = mean === null ? value : SMOOTHING * mean + (1 - SMOOTHING) * value;
    return mean;
  });
}

function rangeOf(column) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of column) {
    if (value === null) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return { low, high };
}

function alike(one, other) {
  const allowed = ALIKE * Math.max(one.high - one.low, other.high - other.low);
  return Math.abs(one.low - other.low) <= allowed && Math.abs(one.high - other.high) <= allowed;
}

function lastOf(column) {
  if (!column) return null;
  for (let at = column.length - 1; at >= 0; at--) if (column[at] !== null) return column[at];
  return null;
}
