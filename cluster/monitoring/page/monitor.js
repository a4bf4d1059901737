// Draws the panels that /api/dashboards names, again every two seconds. Loads nothing from elsewhere.
"use strict";

const EVERY_MS = 2000;
const COLOURS = ["#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#db2777", "#65a30d", "#64748b"];
const WINDOWS = { "2 min": 2, "5 min": 5, "15 min": 15, "1 h": 60, "6 h": 360 };
const state = { boards: [], board: null, chosen: {}, minutes: 5, charts: new Map(), turn: 0 };

const $ = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function ask(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

// Numbers as people read them.

function scaled(value, step, names) {
  let index = 0;
  while (Math.abs(value) >= step && index < names.length - 1) { value /= step; index += 1; }
  return trimmed(value) + names[index];
}

function trimmed(value) {
  const size = Math.abs(value);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3)));
}

function shown(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "s") return value !== 0 && Math.abs(value) < 0.001 ? `${trimmed(value * 1e6)} µs` : Math.abs(value) < 1 ? `${trimmed(value * 1e3)} ms` : `${trimmed(value)} s`;
  if (unit === "percentunit") return `${trimmed(value * 100)}%`;
  if (unit === "percent") return `${trimmed(value)}%`;
  if (unit === "bytes") return scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
  if (unit === "decmbytes") return scaled(value, 1000, [" MB", " GB", " TB"]);
  if (unit === "none") return value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(2) : trimmed(value);
  return scaled(value, 1000, ["", "k", "M", "G"]) + (unit.startsWith(" ") ? unit : "");
}

// Lines with different times on one axis; stacked ones add up.

function table(lines) {
  const times = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const rows = new Map(times.map((time, index) => [time, index]));
  return [times, ...lines.map((line) => {
    const values = new Array(times.length).fill(null);
    for (const [time, value] of line.points) values[rows.get(time)] = value;
    return values;
  })];
}

function stacked([times, ...lines]) {
  const sums = new Array(times.length).fill(0);
  return [times, ...lines.map((values) => values.map((value, index) => (value === null ? null : (sums[index] += value))))];
}

class Chart {
  constructor(panel, path) {
    Object.assign(this, { panel, path, names: "", plot: null, values: [] });
    this.place = element("div", { className: "plot" });
    this.legend = element("div", { className: "legend" });
    this.node = element("article", { className: "panel" },
      element("h3", { textContent: panel.title }), element("p", { textContent: panel.description }), this.place, this.legend);
    this.node.title = panel.queries.map((query) => query.expr).join("\n\n");
  }

  draw(lines) {
    this.values = table(lines);
    const names = lines.map((line) => line.name).join("\n");
    if (!lines.length) return this.empty();
    const data = this.panel.stacked ? stacked(this.values) : this.values;
    if (names === this.names && this.plot) this.plot.setData(data);
    else this.rebuild(lines, data);
    this.names = names;
    this.tell(null);
  }

  empty() {
    this.plot?.destroy();
    this.plot = null;
    const needs = { gpu: "no GPU here", operator: "told by the KubeRay operator", writing: "told of agents that write" }[this.panel.queries[0].needs];
    this.place.replaceChildren(element("div", { className: "empty", textContent: needs ?? "nothing yet" }));
    this.legend.replaceChildren();
  }

  rebuild(lines, data) {
    this.plot?.destroy();
    this.place.replaceChildren();
    const ink = getComputedStyle(document.body).getPropertyValue("--soft");
    const grid = { stroke: getComputedStyle(document.body).getPropertyValue("--line"), width: 1 };
    const axis = { stroke: ink, grid, ticks: grid, font: "11px system-ui" };
    const series = lines.map((line, index) => {
      const stroke = COLOURS[index % COLOURS.length];
      return { label: line.name, stroke, width: 1.5, spanGaps: false, points: { show: false }, fill: this.panel.stacked ? stroke + "40" : undefined };
    });
    const bands = this.panel.stacked ? lines.slice(1).map((_, index) => ({ series: [index + 2, index + 1] })) : [];
    this.plot = new uPlot({
      width: this.place.clientWidth, height: 150, legend: { show: false }, bands,
      scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.08 : 1] } },
      axes: [{ ...axis, space: 60, values: (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toTimeString().slice(0, state.minutes > 5 ? 5 : 8)) }, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => shown(tick, this.panel.unit).split(" ").slice(0, this.panel.unit.startsWith(" ") ? 1 : 2).join(" ")) }],
      series: [{}, ...series],
      hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx)] },
    }, data, this.place);
  }

  tell(index) {
    const [times, ...lines] = this.values;
    const entries = lines.map((values, number) => {
      const value = values[index ?? values.findLastIndex((one) => one !== null)];
      const mark = element("i");
      mark.style.background = COLOURS[number % COLOURS.length];
      return element("span", {}, mark, `${this.names.split("\n")[number] || "all"} `, element("b", { textContent: shown(value, this.panel.unit) }));
    });
    if (times.length) this.legend.replaceChildren(...entries);
  }
}

function show(board) {
  state.board = board;
  state.charts.clear();
  state.chosen = {};
  location.hash = board.uid;
  for (const tab of $("tabs").children) tab.toggleAttribute("aria-current", tab.dataset.uid === board.uid);
  let number = 0;
  $("rows").replaceChildren(...board.rows.map((row) => {
    const grid = element("div", { className: "grid" });
    for (const panel of row.panels) {
      const chart = new Chart(panel, `/api/panels/${board.uid}/${number}`);
      state.charts.set(number, chart);
      grid.append(chart.node);
      number += 1;
    }
    return element("section", {}, element("h2", { textContent: row.title }), grid);
  }));
  choices();
  refresh();
}

async function choices() {
  const values = await ask(`/api/variables/${state.board.uid}`);
  const pick = (title, options, selected, changed) => {
    const select = element("select", { onchange: () => { changed(select.value); refresh(); } }, ...options.map(([text, value]) => new Option(text, value, false, value === selected)));
    return element("label", {}, `${title} `, select);
  };
  $("choices").replaceChildren(
    ...state.board.variables.map((variable) => pick(variable.title, [["All", ""], ...values[variable.name].map((value) => [value, value])], state.chosen[variable.name] ?? "", (value) => { state.chosen[variable.name] = value; })),
    pick("Last", Object.entries(WINDOWS), state.minutes, (value) => { state.minutes = value; }),
  );
}

async function refresh() {
  const turn = ++state.turn;
  const query = new URLSearchParams({ ...state.chosen, minutes: state.minutes });
  await Promise.all([...state.charts.values()].map(async (chart) => {
    try {
      const lines = await ask(`${chart.path}?${query}`);
      if (turn === state.turn) chart.draw(lines);
    } catch (error) {
      if (turn === state.turn) { chart.empty(); chart.place.firstChild.textContent = error.message; }
    }
  }));
  const alerts = await ask("/api/alerts").catch(() => []);
  $("alerts").replaceChildren(...alerts.map((alert) => element("li", { className: alert.state }, element("b", { textContent: `${alert.name} ${alert.state}` }), ` · ${alert.summary} · ${alert.runbook_url}`)));
}

async function start() {
  const { notice, dashboards } = await ask("/api/dashboards");
  state.boards = dashboards;
  $("notice").textContent = notice;
  $("tabs").append(...dashboards.map((board) => {
    const tab = element("button", { textContent: board.title.split(" / ")[1], title: board.description, onclick: () => show(board) });
    tab.dataset.uid = board.uid;
    return tab;
  }));
  show(dashboards.find((board) => `#${board.uid}` === location.hash) ?? dashboards[0]);
  setInterval(refresh, EVERY_MS);
  setInterval(() => { if (!$("choices").contains(document.activeElement)) choices(); }, 5 * EVERY_MS);
  window.addEventListener("resize", () => { for (const chart of state.charts.values()) chart.plot?.setSize({ width: chart.place.clientWidth, height: 150 }); });
}

start();
