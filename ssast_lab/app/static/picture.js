// The layers of a reconstruction as pictures, and the scales between pixels, frames, mel bins, seconds and Hz.
//
// A layer is a canvas of one pixel for each frame and mel bin. Bins count from the lowest, frames from the first; frame f is drawn
// from f to f + 1, and bin b from b to b + 1 upwards.
(() => {
  const NOTES = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];
  const GREYS = [[38, 41, 46], [208, 212, 217]];

  function bytes(text) {
    const binary = atob(text), all = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) all[i] = binary.charCodeAt(i);
    return all;
  }

  const asText = (values) => btoa(String.fromCharCode(...values));

  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const packed = ([r, g, b], alpha = 255) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
  const mix = (one, other, share) => one.map((value, i) => Math.round(value + (other[i] - value) * share));

  // A colour for every value of `count`, of which `at` says where in the palette, 0 to 1, it lies.
  function table(count, at, palette) {
    const last = palette.length / 3 - 1;
    return Uint32Array.from({ length: count }, (_, i) => {
      const place = 3 * Math.round(Math.min(Math.max(at(i), 0), 1) * last);
      return packed(palette.subarray(place, place + 3));
    });
  }

  // The data as the server sends it, unpacked, with all that can be asked of it.
  function picture(data) {
    const { grid } = data, { bins, frames, columns, rows } = grid;
    const levels = { original: bytes(data.original), reconstructed: bytes(data.reconstructed) };
    const mask = bytes(data.mask);
    const rank = new Int32Array(bytes(data.rank).buffer), mse = new Float32Array(bytes(data.mse).buffer);
    const mels = data.hertz.map((hertz) => 1127 * Math.log1p(hertz / 700));
    const loudness = bytes(data.colours.loudness), deviation = bytes(data.colours.deviation);
    const loud = (level) => (data.floor + level * data.step - data.low) / (data.high - data.low);
    const drawn = {}; // name -> canvas, until the mask changes

    const bounds = (patch) => {
      const low = Math.floor(patch / columns) * grid.stride[0], first = (patch % columns) * grid.stride[1];
      return { low, high: low + grid.shape[0], first, end: first + grid.shape[1] };
    };

    const patchAt = (frame, bin) => {
      const column = Math.floor(frame / grid.stride[1]), row = Math.floor(bin / grid.stride[0]);
      const inside = frame >= 0 && bin >= 0 && column < columns && row < rows;
      return inside ? row * columns + column : -1;
    };

    const painters = {
      original: (at) => coloured.loudness[levels.original[at]],
      masked: (at, patch) => (mask[patch] ? coloured.hidden : coloured.loudness[levels.original[at]]),
      reconstructed: (at) => coloured.loudness[levels.reconstructed[at]],
      error: (at, patch) => (mask[patch] ? coloured.error[levels.reconstructed[at] - levels.original[at] + 255] : coloured.veil),
      recognised: (at, patch) => {
        const tint = mask[patch] ? (rank[patch] < 0 ? coloured.unknown : rank[patch] ? coloured.wrong : coloured.right) : coloured.grey;
        return tint[levels.original[at]];
      },
    };
    const greys = Array.from({ length: 256 }, (_, level) => mix(...GREYS, Math.min(Math.max(loud(level), 0), 1)));
    const tinted = (hex) => Uint32Array.from(greys, (grey) => packed(mix(grey, rgb(hex), 0.75)));
    const coloured = {
      loudness: table(256, loud, loudness),
      error: table(511, (i) => ((i - 255) * data.step + data.most) / (2 * data.most), deviation),
      hidden: packed(rgb(data.colours.hidden)),
      veil: packed(rgb(data.colours.hidden), 60),
      grey: Uint32Array.from(greys, (grey) => packed(grey)),
      right: tinted(data.colours.right),
      wrong: tinted(data.colours.wrong),
      unknown: tinted(data.colours.hidden),
    };

    function layer(name) {
      if (drawn[name]) return drawn[name];
      const canvas = Object.assign(document.createElement("canvas"), { width: frames, height: bins });
      const image = new ImageData(frames, bins), pixels = new Uint32Array(image.data.buffer), paint = painters[name];
      for (let bin = 0, pixel = 0; bin < bins; bin++)
        for (let frame = 0; frame < frames; frame++, pixel++) {
          const mel = bins - 1 - bin;
          pixels[pixel] = paint(frame * bins + mel, patchAt(frame, mel));
        }
      canvas.getContext("2d").putImageData(image, 0, 0);
      return (drawn[name] = canvas);
    }

    // Another mask, before the model has seen it: what it made of the patches is not known.
    function repaint(next) {
      for (let patch = 0; patch < mask.length; patch++)
        if (mask[patch] !== next[patch]) {
          rank[patch] = -1;
          mse[patch] = NaN;
        }
      mask.set(next);
      for (const name of ["masked", "error", "recognised"]) delete drawn[name];
    }

    // More layers that are seen and read as the reconstruction is, in the place of those that were lent before.
    let lent = [];
    function lend(guests) {
      for (const name of lent) for (const table of [levels, painters, drawn]) delete table[name];
      lent = guests.map(({ name }) => name);
      for (const guest of guests) {
        levels[guest.name] = guest.levels;
        painters[guest.name] = (at) => coloured.loudness[guest.levels[at]];
      }
    }

    const hertzOf = (bin) => 700 * Math.expm1((mels[0] + ((bin + 0.5) * (mels[1] - mels[0])) / (bins + 1)) / 1127);
    const binOf = (hertz) => ((1127 * Math.log1p(hertz / 700) - mels[0]) / (mels[1] - mels[0])) * (bins + 1) - 0.5;

    function note(hertz) {
      const number = Math.round(69 + 12 * Math.log2(hertz / 440));
      return NOTES[((number % 12) + 12) % 12] + (Math.floor(number / 12) - 1);
    }

    function decibel(name, frame, bin) {
      const at = Math.floor(frame) * bins + Math.floor(bin), patch = patchAt(frame, bin);
      if (name === "error") return mask[patch] ? (levels.reconstructed[at] - levels.original[at]) * data.step : null;
      if (name === "masked" && mask[patch]) return null;
      return data.floor + (levels[name] ?? levels.original)[at] * data.step;
    }

    // What is to be read at a point of a layer.
    function reading(name, frame, bin) {
      const patch = patchAt(frame, bin), hertz = hertzOf(bin);
      return {
        seconds: data.start + data.offset + frame * data.hop, hertz, note: note(hertz), decibel: decibel(name, frame, bin),
        bin: Math.floor(bin), patch, hidden: Boolean(mask[patch]), rank: rank[patch], mse: mse[patch],
      };
    }

    // What of the sound a patch sees: seconds from its first sample, and the feet of its outermost mel filters in Hz.
    function heard(patch) {
      const { low, high, first, end } = bounds(patch);
      return { from: first * data.hop, until: (end - 1) * data.hop + data.window, band: [hertzOf(low - 0.5), hertzOf(high + 0.5)] };
    }

    return {
      data, grid, mask, rank, mse, layer, lend, repaint, bounds, patchAt, hertzOf, binOf, reading, heard, levels,
      hiddenCount: () => mask.reduce((sum, value) => sum + value, 0),
      frameOf: (time) => (time - data.offset) / data.hop,
      timeOf: (frame) => data.offset + frame * data.hop,
    };
  }

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, { picture, bytes, packed: asText });
})();
