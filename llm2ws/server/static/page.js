// The page: asks POST /chat?audio=1, plays what comes, shows the text as it is heard and where the time went.
// Text of the model gets into the page as text nodes only.

import { openPlayer } from "./player.js";

const SAMPLE_RATE = 24000; // of the audio of /chat
const KEPT_TURNS = 8;
const SECONDS_PER_CHAR = 0.065; // of a fragment whose end is not known yet

// The steps of a turn: its name, and where its time is found: in the daemon's stats, or measured here.
const STEPS = [
  ["First token", "first_token_s"],
  ["First fragment", "first_fragment_s"],
  ["Sent to speech", "first_flush_s"],
  ["First audio", "first_audio_s"],
  ["Played", "played_s"],
];

const element = (id) => document.getElementById(id);
const seconds = (since) => (performance.now() - since) / 1000;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const turns = []; // the last ones of this tab, the newest first
let current = null; // the turn that is heard now

// --- one turn ---------------------------------------------------------------------------------------------------------

class Turn {
  constructor(prompt) {
    this.prompt = prompt;
    this.text = []; // of the model, in code points: the spans of `spoken` count these
    this.spans = []; // {start, end, at}: characters, and the second of the audio at which they begin
    this.received = 0; // samples
    this.marks = {}; // seconds from the request
    this.ended = false; // the daemon said so
    this.complete = false; // all audio has come
    this.controller = new AbortController();
    this.player = null;
    this.state = "waiting";
    this.failure = "";
    this.notice = ""; // what holds the speech up, or has changed
    this.stoppedMs = null;
  }

  async run(headers) {
    const began = performance.now();
    // Before anything else is awaited: sound needs the click.
    const opening = openPlayer({ sampleRate: SAMPLE_RATE });
    const answering = fetch("chat?audio=1", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify({ prompt: this.prompt }),
      signal: this.controller.signal,
    });
    answering.catch(() => {}); // it is awaited below, and may fail before that
    this.player = await opening;
    this.player.started.then(() => {
      if (this.player.played || !this.controller.signal.aborted) this.marks.played_s ??= seconds(began);
    });
    const response = await answering;
    if (!response.ok) throw await refusal(response);
    for await (const { name, data } of events(response.body)) this.take(name, data, began);
    if (!this.ended && !this.failure) this.failure = "the answer broke off: try again";
    this.complete = true;
    this.player.end();
    await this.player.over;
  }

  take(name, data, began) {
    switch (name) {
      case "text":
        this.marks.first_token_s ??= seconds(began);
        this.text.push(...data.delta);
        break;
      case "spoken":
        this.spans.push({ start: data.start, end: data.end, at: data.at_s ?? this.received / SAMPLE_RATE });
        break;
      case "audio": {
        this.marks.first_audio_s ??= seconds(began);
        this.state = "speaking";
        const samples = new Int16Array(Uint8Array.from(atob(data.data), (char) => char.charCodeAt(0)).buffer);
        this.received += samples.length;
        this.player.push(samples);
        break;
      }
      case "notice":
        this.notice = data.message;
        break;
      case "error":
        this.failure = data.message;
        break;
      case "done":
        this.ended = true;
        if (data.outcome !== "done" && !this.failure) this.failure = `the answer ended early: ${data.outcome}`;
        // The daemon saw these happen; here only their arrival was seen.
        for (const [, key] of STEPS) if (typeof data.stats?.[key] === "number") this.marks[key] = data.stats[key];
    }
  }

  /** Silence, and no more of the answer is written or spoken. `since`: when that was asked for. */
  async stop(since) {
    this.controller.abort();
    await this.player?.stop();
    this.stoppedMs ??= performance.now() - since;
  }

  /** Where the listener is in the text: what is being said begins at `start`, and is heard up to `cut`. */
  place() {
    const all = this.text.length;
    if (this.state === "finished") return { start: all, cut: all };
    const position = this.player?.position ?? 0;
    const n = this.player?.played ? this.spans.findLastIndex(({ at }) => at <= position) : -1;
    if (n < 0) return { start: 0, cut: 0 };
    const { start, end, at } = this.spans[n];
    if (calm.matches) return { start, cut: end }; // a fragment at a time
    // Nobody says when a word begins: within a fragment the time is shared out among its characters.
    const known = this.spans[n + 1]?.at ?? (this.complete ? this.received / SAMPLE_RATE : Infinity);
    const until = Math.min(known, at + (end - start) * SECONDS_PER_CHAR * (known === Infinity ? 1 : 2));
    let cut = Math.min(end, start + Math.round(((end - start) * (position - at)) / Math.max(0.001, until - at)));
    while (cut > start && cut < end && !isSpace(this.text[cut])) cut++; // words light up as a whole
    return { start, cut };
  }
}

const isSpace = (char) => /\s/.test(char);

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const error = new Error(body.error?.message ?? `the daemon answered with ${response.status}`);
  error.status = response.status;
  return error;
}

/** Server-sent events of a body: {name, data}. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.split("\n").find((line) => line.startsWith(name))?.slice(name.length);
      const data = field("data: ");
      if (data) yield { name: field("event: ") ?? "", data: JSON.parse(data) };
    }
  }
}

// --- what is done -----------------------------------------------------------------------------------------------------

async function speak(prompt) {
  const turn = new Turn(prompt);
  const before = current;
  current = turn;
  before?.stop(performance.now());
  element("error").textContent = "";
  begin(turn);
  requestAnimationFrame(function frame() {
    if (current !== turn) return;
    show(turn);
    if (turn.state === "waiting" || turn.state === "speaking") requestAnimationFrame(frame);
  });
  try {
    await turn.run(authorization());
    turn.state = turn.controller.signal.aborted ? "stopped" : turn.failure ? "failed" : "finished";
  } catch (error) {
    turn.state = turn.controller.signal.aborted ? "stopped" : "failed";
    if (turn.state === "failed") {
      // Of fetch and of what it reads, a TypeError is all that is told.
      turn.failure = error instanceof TypeError ? "the daemon cannot be reached: look whether it runs" : error.message;
      if (error.status === 401) askForKey();
      turn.player?.end();
    }
  }
  if (turn.state === "stopped") await turn.player?.over;
  remember(turn);
  if (current === turn) show(turn);
}

async function stop(since) {
  const turn = current;
  if (!turn || !isRunning(turn)) return;
  await turn.stop(since);
  turn.state = "stopped";
  show(turn);
}

function isRunning(turn) {
  return turn?.state === "waiting" || turn?.state === "speaking";
}

function authorization() {
  const key = element("key").value || sessionStorage.getItem("key");
  if (key) sessionStorage.setItem("key", key);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function askForKey() {
  sessionStorage.removeItem("key");
  element("access").hidden = false;
  element("key").value = "";
  element("key").focus();
}

function remember(turn) {
  if (turn.marks.first_token_s === undefined) return; // refused: no time went anywhere
  turns.unshift(turn);
  turns.length = Math.min(turns.length, KEPT_TURNS);
  showTurns();
}

// --- what is shown ----------------------------------------------------------------------------------------------------

const WORDS = {
  waiting: () => "Waiting for the first word …",
  speaking: (turn) => (turn.notice ? `Speaking: ${turn.notice}` : "Speaking"),
  finished: (turn) => (turn.received ? "Finished" : "There was nothing to say"),
  stopped: (turn) => (turn.stoppedMs === null ? "Stopped" : `Stopped within ${Math.ceil(turn.stoppedMs)} ms`),
  failed: () => "Failed",
};

function begin(turn) {
  element("answer").hidden = false;
  element("timing").hidden = false;
  shownPlace = "";
  show(turn);
}

let shownPlace = "";

function show(turn) {
  const { start, cut } = turn.place();
  const place = `${start} ${cut} ${turn.text.length}`;
  if (place !== shownPlace) {
    shownPlace = place;
    const lead = turn.text.slice(start, cut).findIndex((char) => !isSpace(char));
    const from = lead > 0 ? start + lead : start; // a space is not underlined
    const part = (first, last) => turn.text.slice(first, last).join("");
    element("heard").textContent = part(0, from);
    element("said").textContent = part(from, cut);
    element("ahead").textContent = part(cut);
  }
  const status = WORDS[turn.state](turn);
  if (element("status").textContent !== status) element("status").textContent = status; // it is read out when it changes
  document.body.dataset.state = turn.state;
  element("stop").disabled = !isRunning(turn);
  if (element("error").textContent !== turn.failure) element("error").textContent = turn.failure;
  showWaterfall(turn);
  showSamples(turn);
}

/** Each step with when it began, that is when the one before ended, and when it ended; undefined where it did not. */
function steps(turn) {
  let from = 0;
  return STEPS.map(([name, key]) => {
    const to = turn.marks[key];
    const step = { name, from, to: to === undefined ? undefined : Math.max(from, to) };
    from = step.to ?? from;
    return step;
  });
}

let shownMarks = "";

function showWaterfall(turn) {
  const marks = JSON.stringify(turn.marks);
  if (marks === shownMarks) return;
  shownMarks = marks;
  const rows = steps(turn);
  const scale = Math.max(0.001, ...rows.map(({ to }) => to ?? 0));
  const body = element("waterfall").tBodies[0];
  body.replaceChildren(
    ...rows.map(({ name, from, to }, n) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      const track = document.createElement("td");
      track.className = "bars";
      if (to !== undefined) track.append(bar(n, from / scale, to / scale));
      const at = document.createElement("td");
      at.textContent = to === undefined ? "–" : `${Math.round(to * 1000)} ms`;
      row.append(head, track, at);
      return row;
    }),
  );
}

function bar(step, from, to) {
  const one = document.createElement("span");
  one.className = `bar step${step}`;
  one.style.insetInlineStart = `min(${from * 100}%, 100% - 2px)`; // its least width
  one.style.inlineSize = `${(to - from) * 100}%`;
  return one;
}

function showSamples(turn) {
  const line = element("samples");
  const played = turn.player?.played ?? 0;
  const missing = turn.player?.missing ?? 0;
  Object.assign(line.dataset, { played, missing, received: turn.received, stoppedMs: turn.stoppedMs ?? "" });
  line.dataset.kind = turn.player?.kind ?? "";
  if (!played) line.textContent = "";
  else {
    const count = played.toLocaleString("en");
    line.textContent = `${(played / SAMPLE_RATE).toFixed(1)} s heard: ${count} samples, ${missing || "none"} missing`;
  }
}

function showTurns() {
  const ends = turns.map((turn) => steps(turn).reduce((last, { to }) => to ?? last, 0));
  const scale = Math.max(0.001, ...ends);
  element("turns").replaceChildren(
    ...turns.map((turn, n) => {
      const item = document.createElement("li");
      const prompt = document.createElement("span");
      prompt.className = "prompt";
      prompt.textContent = turn.prompt;
      const time = document.createElement("span");
      time.className = "time";
      time.textContent = turn.marks.played_s === undefined ? "not heard" : `${Math.round(ends[n] * 1000)} ms`;
      const track = document.createElement("span");
      track.className = "bars";
      steps(turn).forEach(({ from, to }, step) => to !== undefined && track.append(bar(step, from / scale, to / scale)));
      item.append(prompt, time, track);
      return item;
    }),
  );
}

// --- what the user does -----------------------------------------------------------------------------------------------

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = element("prompt").value.trim();
  if (prompt) speak(prompt);
});

element("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element("ask").requestSubmit();
});

element("stop").addEventListener("click", (event) => stop(event.timeStamp));

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop(event.timeStamp);
});
