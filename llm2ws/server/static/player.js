/**
 * Plays speech while it arrives: raw 16-bit samples, mono, in the order in which they are pushed.
 *
 *     import { openPlayer } from "/static/player.js";
 *
 *     button.onclick = async () => {            // browsers allow sound after a click, not before
 *       const player = await openPlayer();      // one for each answer
 *       player.push(samples);                   // an Int16Array, as often as there is one
 *       player.end();                           // there are no more
 *       await player.over;                      // all was heard, or stop() was called
 *     };
 *
 * Members of a player:
 *
 *     push(samples)   Int16Array; it is handed over, so do not use it afterwards
 *     end()           nothing more is pushed
 *     stop()          silence now; a Promise of the seconds that were heard
 *     started         a Promise: the first sample is being played
 *     over            a Promise: it has ended or was stopped
 *     position        seconds that have been heard
 *     played          samples that were played
 *     missing         samples of silence that were played because nothing was there in time
 *     kind            "worklet", or "buffers" where the page has no AudioWorklet: on plain http from another host
 *
 * It needs nothing else but worklet.js beside it.
 */

const LEAD_S = 0.06; // how long the first buffer waits, so that the next is there in time
const contexts = new Map(); // by sample rate: browsers allow few of them

/** A player for one answer. Call it while a click or a key press is handled. */
export async function openPlayer({ sampleRate = 24000 } = {}) {
  if (!contexts.has(sampleRate)) contexts.set(sampleRate, new AudioContext({ sampleRate }));
  const context = contexts.get(sampleRate);
  const resumed = context.resume();
  if (!context.audioWorklet) {
    await resumed;
    return new BufferPlayer(context);
  }
  context.pcmPlayer ??= context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
  await Promise.all([resumed, context.pcmPlayer]);
  return new WorkletPlayer(context);
}

/** The latency between the samples' way out and the ear. */
function latency(context) {
  return context.outputLatency || context.baseLatency || 0;
}

class WorkletPlayer {
  kind = "worklet";
  played = 0;
  missing = 0;

  constructor(context) {
    this.context = context;
    this.node = new AudioWorkletNode(context, "pcm-player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.node.connect(context.destination);
    let start, finish;
    this.started = new Promise((resolve) => (start = resolve));
    this.over = new Promise((resolve) => (finish = resolve));
    this.node.port.onmessage = ({ data }) => {
      this.played = data.played;
      this.missing = data.missing;
      if (data.started) start();
      if (data.ended || data.stopped) {
        this.node.disconnect();
        start();
        finish();
      }
    };
  }

  push(samples) {
    this.node.port.postMessage({ samples }, [samples.buffer]);
  }

  end() {
    this.node.port.postMessage({ end: true });
  }

  async stop() {
    this.node.port.postMessage({ stop: true });
    await this.over;
    return this.position;
  }

  get position() {
    return Math.max(0, this.played / this.context.sampleRate - latency(this.context));
  }
}

class BufferPlayer {
  kind = "buffers";
  missing = 0;

  constructor(context) {
    this.context = context;
    this.next = 0; // when the last buffer ends, in the context's time
    this.pieces = []; // {source, at, length}, in their order
    this.done = 0; // samples of buffers that have ended
    this.ending = false;
    this.started = new Promise((resolve) => (this.start = resolve));
    this.over = new Promise((resolve) => (this.finish = resolve));
  }

  push(samples) {
    const { context } = this;
    const rate = context.sampleRate;
    const buffer = context.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    const first = this.next === 0;
    if (this.next < context.currentTime) {
      const at = context.currentTime + LEAD_S;
      if (!first) this.missing += Math.round((at - this.next) * rate);
      this.next = at;
    }
    const piece = { source, at: this.next, length: samples.length };
    source.start(this.next);
    this.next += samples.length / rate;
    this.pieces.push(piece);
    if (first) setTimeout(this.start, LEAD_S * 1000);
    source.onended = () => {
      this.done += piece.length;
      this.pieces.splice(this.pieces.indexOf(piece), 1);
      this.finishIfDone();
    };
  }

  end() {
    this.ending = true;
    this.finishIfDone();
  }

  finishIfDone() {
    if (!this.ending || this.pieces.length) return;
    this.start();
    this.finish();
  }

  async stop() {
    this.done = this.played;
    for (const { source } of this.pieces) {
      source.onended = null;
      source.stop();
    }
    this.pieces = [];
    this.end();
    return this.position;
  }

  get played() {
    const now = this.context.currentTime;
    const rate = this.context.sampleRate;
    const part = ({ at, length }) => Math.round(Math.min(length, Math.max(0, (now - at) * rate)));
    return this.pieces.reduce((sum, piece) => sum + part(piece), this.done);
  }

  get position() {
    return Math.max(0, this.played / this.context.sampleRate - latency(this.context));
  }
}
