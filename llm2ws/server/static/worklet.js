// Plays 16-bit samples in the audio thread, in the order in which they are posted. player.js is its other half.
//
// Posted to it:  {samples: Int16Array} | {end: true} | {stop: true}
// It posts:      {played, missing}, about 20 times a second and at each change of state, with `started`, `ended` or `stopped`

const PREBUFFER_S = 0.06; // before it begins, and after it ran dry: one pause is better than many short ones
const REPORT_QUANTA = 8; // of 128 samples

class PcmPlayer extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.at = 0; // in the first of the queue
    this.queued = 0;
    this.played = 0;
    this.missing = 0; // samples of silence, because nothing was there in time
    this.quanta = 0;
    this.waiting = true; // for so much to be there, or for so long since something was
    this.waited = 0; // samples
    this.started = this.ending = this.stopping = this.over = false;
    this.port.onmessage = ({ data }) => {
      if (data.samples) {
        this.queue.push(data.samples);
        this.queued += data.samples.length;
      }
      this.ending ||= Boolean(data.end);
      this.stopping ||= Boolean(data.stop);
    };
  }

  report(more = {}) {
    this.port.postMessage({ played: this.played, missing: this.missing, ...more });
  }

  process(inputs, [[out]]) {
    if (this.over) return false;
    if (this.waiting && !this.stopping) {
      if (this.queued) this.waited += out.length;
      this.waiting = Math.max(this.queued, this.waited) < PREBUFFER_S * sampleRate && !this.ending;
      if (!this.started && !this.waiting && this.queued) {
        this.started = true;
        this.report({ started: true });
      }
    }
    const filled = this.waiting ? 0 : this.fill(out);
    if (this.stopping) {
      for (let i = 0; i < filled; i++) out[i] *= 1 - i / filled; // not cut off within a wave, which is heard as a click
      this.over = true;
      this.report({ stopped: true });
      return false;
    }
    if (filled < out.length) {
      if (this.ending) {
        this.over = true;
        this.report({ ended: true });
        return false;
      }
      if (!this.waiting) this.waited = 0; // it has just run dry
      this.waiting = true;
      if (this.started) this.missing += out.length - filled;
    }
    if (this.started && ++this.quanta % REPORT_QUANTA === 0) this.report();
    return true;
  }

  /** Takes samples from the queue; says how many there were. */
  fill(out) {
    let filled = 0;
    while (filled < out.length && this.queue.length) {
      const samples = this.queue[0];
      const n = Math.min(out.length - filled, samples.length - this.at);
      for (let i = 0; i < n; i++) out[filled + i] = samples[this.at + i] / 32768;
      filled += n;
      this.at += n;
      if (this.at === samples.length) {
        this.queue.shift();
        this.at = 0;
      }
    }
    this.played += filled;
    this.queued -= filled;
    return filled;
  }
}

registerProcessor("pcm-player", PcmPlayer);
