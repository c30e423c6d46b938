// Plays the versions of one sound through Web Audio. Times are seconds from its first sample; bands are [low, high] in Hz.
(() => {
  const FADE = 0.008; // seconds, at every beginning and end, so that nothing clicks
  const LEAD = 0.005; // seconds from now at which a sound begins
  const SLOPE = 30; // Hz over which a band begins and ends

  // In place, of a power of two of values.
  function fft(re, im, inverse) {
    const n = re.length;
    for (let i = 1, j = 0; i < n; i++) {
      let bit = n >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) {
        [re[i], re[j]] = [re[j], re[i]];
        [im[i], im[j]] = [im[j], im[i]];
      }
    }
    const turn = ((inverse ? 2 : -2) * Math.PI) / n, cos = new Float64Array(n / 2), sin = new Float64Array(n / 2);
    for (let k = 0; k < n / 2; k++) {
      cos[k] = Math.cos(turn * k);
      sin[k] = Math.sin(turn * k);
    }
    for (let half = 1; half < n; half *= 2) {
      const step = n / (2 * half);
      for (let start = 0; start < n; start += 2 * half)
        for (let k = 0; k < half; k++) {
          const a = start + k, b = a + half, c = cos[k * step], s = sin[k * step];
          const x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
    }
    if (inverse) for (let i = 0; i < n; i++) re[i] /= n;
  }

  // What of some samples lies in a band: a filter of no phase, as the spectrum is only weighed.
  function bandOf(samples, rate, [low, high]) {
    let size = 2;
    while (size < samples.length) size *= 2;
    const re = new Float64Array(size), im = new Float64Array(size);
    re.set(samples);
    fft(re, im, false);
    for (let k = 0; k < size; k++) {
      const hertz = (Math.min(k, size - k) * rate) / size;
      const inside = Math.min(Math.max(Math.min(hertz - low, high - hertz) / SLOPE + 0.5, 0), 1);
      const weight = 0.5 - 0.5 * Math.cos(Math.PI * inside);
      re[k] *= weight;
      im[k] *= weight;
    }
    fft(re, im, true);
    return Float32Array.from(re.subarray(0, samples.length));
  }

  // `changed` is called when it starts, stops or loses its place.
  function player(changed) {
    let context = null, rate = 16000, versions = {}, chosen = "reconstructed";
    let place = 0; // where it stands, or where it began
    let now = null; // what plays: { source, gain, began (on the audio clock), least, home (where it ends up), until, band }

    const length = () => Math.max(0, ...Object.values(versions).map((samples) => samples.length / rate));

    // Where the ear is: what was handed over is heard a little later.
    function time() {
      if (!now) return place;
      const heard = context.currentTime - (context.outputLatency || 0) - now.began;
      return Math.min(Math.max(place + heard, now.least), now.until);
    }

    // From the sample on that would have been next, so that the ear finds no seam.
    function goOn() {
      if (!now) return;
      const next = place + context.currentTime + LEAD - now.began, { until, band, home, version, then } = now;
      start(Math.min(next, until), Math.min(until, length()), band, { least: time(), home, version, then });
    }

    function fadeOut({ source, gain }) {
      source.onended = null;
      gain.gain.cancelScheduledValues(context.currentTime);
      gain.gain.setTargetAtTime(0, context.currentTime, FADE / 3);
      source.stop(context.currentTime + 2 * FADE);
    }

    // `then` is called when it has played to its end; `version` is played instead of the chosen one.
    function start(from, until, band, { least = from, home = band ? from : 0, version = null, then = null } = {}) {
      const samples = versions[version ?? chosen];
      if (!samples) return;
      context ??= new AudioContext();
      context.resume();
      if (now) fadeOut(now);
      const first = Math.round(from * rate);
      let part = samples.subarray(first, Math.round(until * rate));
      if (!part.length) return stop();
      if (band) part = bandOf(part, rate, band);
      const buffer = context.createBuffer(1, part.length, rate);
      buffer.copyToChannel(part, 0);
      const source = new AudioBufferSourceNode(context, { buffer }), gain = new GainNode(context, { gain: 0 });
      const began = context.currentTime + LEAD, ends = began + part.length / rate;
      gain.gain.setValueAtTime(0, began);
      gain.gain.linearRampToValueAtTime(1, began + FADE);
      gain.gain.setValueAtTime(1, Math.max(ends - FADE, began + FADE));
      gain.gain.linearRampToValueAtTime(0, Math.max(ends, began + 2 * FADE));
      source.connect(gain).connect(context.destination);
      source.onended = () => {
        now = null;
        place = home;
        changed();
        then?.();
      };
      source.start(began);
      place = from;
      now = { source, gain, began, least, home, until, band, version, then };
      changed();
    }

    function stop() {
      if (!now) return;
      place = time();
      fadeOut(now);
      now = null;
      changed();
    }

    return {
      get clock() { return context ? context.currentTime : 0; },
      get chosen() { return chosen; },
      get playing() { return Boolean(now); },
      get length() { return length(); },
      time,
      stop,
      get rate() { return rate; },
      has: (name) => name in versions,
      samples: (name) => versions[name],
      // Name -> Int16Array. What plays goes on in the new version of it, at its place.
      load(given, sampleRate, scale) {
        rate = sampleRate;
        versions = Object.fromEntries(
          Object.entries(given).map(([name, whole]) => [name, Float32Array.from(whole, (value) => value * scale)]),
        );
        goOn();
      },
      // One version more, and some fewer; what plays is not touched.
      add(name, samples, scale) {
        versions[name] = Float32Array.from(samples, (value) => value * scale);
        if (now && (now.version ?? chosen) === name) goOn();
        changed();
      },
      drop(names) {
        for (const name of names) delete versions[name];
      },
      forget() {
        stop();
        versions = {};
        place = 0;
      },
      choose(name) {
        chosen = name;
        goOn();
      },
      seek(to) {
        const at = Math.min(Math.max(to, 0), length() || to);
        if (now) start(at, length(), null);
        else place = at;
        changed();
      },
      play: () => start(place >= length() - FADE ? 0 : place, length(), null),
      part: (from, until, band, more) => start(Math.max(from, 0), Math.min(until, length()), band, more),
    };
  }

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, { player, bandOf });
})();
