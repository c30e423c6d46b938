// Draws the panels of a stage: layers of a picture one under another, the grid, the axes, and what is pointed at.
(() => {
  const TICKS = [100, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000]; // Hz
  const MARGIN = { left: 40, right: 34, top: 4, bottom: 26 }; // pixels
  const HEADING = 20; // above each of several panels

  // Hz that are written beside a picture: round ones, and where its band ends if that is far above the last of them.
  function hertzes({ data: { hertz: [low, high] } }) {
    const round = TICKS.filter((hertz) => low <= hertz && hertz <= high);
    return high > 1.4 * (round.at(-1) ?? low) ? [...round, high] : round;
  }

  const hertzWords = (hertz) => (hertz < 1000 ? hertz.toFixed(0) : `${+(hertz / 1000).toFixed(1)}k`);

  // The panels' places for a width in pixels.
  function layout(names, width, titles) {
    const several = names.length > 1, narrow = width < 560;
    const height = several ? (narrow ? 80 : 96) : narrow ? 220 : 336;
    const left = narrow ? 32 : MARGIN.left, right = narrow ? 26 : MARGIN.right;
    const panels = names.map((name, place) => ({
      name, title: several ? titles[name] : null, x: left, w: Math.max(width - left - right, 20), h: height,
      y: MARGIN.top + place * (height + HEADING) + (several ? HEADING : 0),
    }));
    const last = panels[panels.length - 1];
    return { panels, width, height: last.y + last.h + MARGIN.bottom, narrow };
  }

  function stepOf(span, room) {
    const least = (span * 64) / room, power = 10 ** Math.floor(Math.log10(least));
    return power * [1, 2, 5, 10].find((factor) => factor * power >= least);
  }

  // `scene`: picture, panels, from and to (frames that are seen), ink (colours), cursor (frame), hover and pinned (patches),
  // overlay (canvas of a pixel for each patch), marks (colour -> patches), point (frame that is pointed at), box (frames and bins), boxOfPatches, grid (bool), veiled (bool: hidden patches under a veil)
  function draw(context, scene) {
    for (const panel of scene.panels) {
      const at = scales(panel, scene);
      context.save();
      context.beginPath();
      context.rect(panel.x, panel.y, panel.w, panel.h);
      context.clip();
      drawLayer(context, panel, scene);
      if (scene.overlay) drawOverlay(context, panel, scene);
      if (scene.veiled) drawVeil(context, panel, scene, at);
      if (scene.grid) drawGrid(context, panel, scene, at);
      drawMarks(context, panel, scene, at);
      context.restore();
      drawAxes(context, panel, scene, at);
    }
    drawSeconds(context, scene);
  }

  function scales(panel, { picture, from, to }) {
    return {
      x: (frame) => panel.x + ((frame - from) / (to - from)) * panel.w,
      y: (bin) => panel.y + panel.h - (bin / picture.grid.bins) * panel.h,
    };
  }

  function drawLayer(context, panel, { picture, from, to }) {
    const frames = to - from;
    context.imageSmoothingEnabled = panel.w < frames;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture.layer(panel.name), from, 0, frames, picture.grid.bins, panel.x, panel.y, panel.w, panel.h);
  }

  // (N,) 0 to 1 -> a canvas of a pixel for each patch: what is low is darkened, what is high has the colour, NaN has nothing.
  function overlay(values, colour, { rows, columns }) {
    const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
    const image = new ImageData(columns, rows), rgb = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    for (let patch = 0; patch < values.length; patch++) {
      if (Number.isNaN(values[patch])) continue;
      const value = Math.min(Math.max(values[patch], 0), 1), alpha = 0.66 - 0.66 * value + 0.78 * value;
      const at = 4 * ((rows - 1 - Math.floor(patch / columns)) * columns + (patch % columns));
      for (let i = 0; i < 3; i++) image.data[at + i] = (rgb[i] * 0.78 * value) / alpha;
      image.data[at + 3] = 255 * alpha;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function drawOverlay(context, panel, { picture, from, to, overlay }) {
    const step = picture.grid.stride[1];
    context.imageSmoothingEnabled = false;
    context.drawImage(overlay, from / step, 0, (to - from) / step, overlay.height, panel.x, panel.y, panel.w, panel.h);
  }

  function seenPatches({ picture, from, to }, each) {
    const { columns, rows, stride, shape } = picture.grid;
    const first = Math.max(Math.floor((from - shape[1]) / stride[1]), 0), end = Math.min(Math.ceil(to / stride[1]), columns);
    for (let row = 0; row < rows; row++) for (let column = first; column < end; column++) each(row * columns + column, row, column);
  }

  function cell(picture, patch, at) {
    const { low, high, first, end } = picture.bounds(patch);
    return [at.x(first), at.y(high), at.x(end) - at.x(first), at.y(low) - at.y(high)];
  }

  function drawVeil(context, panel, scene, at) {
    if (panel.name === "masked" || panel.name === "recognised") return;
    context.fillStyle = "rgba(138, 144, 153, 0.55)";
    seenPatches(scene, (patch) => scene.picture.mask[patch] && context.fillRect(...cell(scene.picture, patch, at)));
  }

  function drawGrid(context, panel, scene, at) {
    const { columns, rows, stride, bins } = scene.picture.grid;
    context.lineWidth = 1;
    context.strokeStyle = "rgba(255, 255, 255, 0.13)";
    context.beginPath();
    if (rows > 1)
      for (let row = 1; row < rows; row++) {
        const y = Math.round(at.y(row * stride[0])) + 0.5;
        context.moveTo(panel.x, y);
        context.lineTo(panel.x + panel.w, y);
      }
    if ((stride[1] * panel.w) / (scene.to - scene.from) > 6)
      for (let column = 1; column < columns; column++) {
        const x = Math.round(at.x(column * stride[1])) + 0.5;
        context.moveTo(x, at.y(0));
        context.lineTo(x, at.y(bins));
      }
    context.stroke();
    if (!["masked", "error", "recognised"].includes(panel.name)) drawOutline(context, scene, at);
  }

  // The edge between what is hidden and what is visible.
  function drawOutline(context, scene, at) {
    const { picture } = scene, { columns, rows } = picture.grid, mask = picture.mask;
    if ((picture.grid.stride[1] * scene.panels[0].w) / (scene.to - scene.from) < 4) return;
    context.strokeStyle = "rgba(255, 255, 255, 0.6)";
    context.beginPath();
    seenPatches(scene, (patch, row, column) => {
      const [x, y, w, h] = cell(picture, patch, at);
      if (row + 1 < rows && mask[patch] !== mask[patch + columns]) {
        context.moveTo(x, y);
        context.lineTo(x + w, y);
      }
      if (column + 1 < columns && mask[patch] !== mask[patch + 1]) {
        context.moveTo(x + w, y);
        context.lineTo(x + w, y + h);
      }
    });
    context.stroke();
  }

  function frame(context, [x, y, w, h], colour, width) {
    context.lineWidth = width + 2;
    context.strokeStyle = "rgba(0, 0, 0, 0.7)";
    context.strokeRect(x, y, w, h);
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.strokeRect(x, y, w, h);
  }

  function drawMarks(context, panel, scene, at) {
    const { picture, ink } = scene;
    if (scene.box) {
      const { from, until, low, high } = scene.box;
      const area = [at.x(from), at.y(high), at.x(until) - at.x(from), at.y(low) - at.y(high)];
      context.fillStyle = "rgba(0, 0, 0, 0.45)";
      context.beginPath();
      context.rect(panel.x, panel.y, panel.w, panel.h);
      context.rect(...area);
      context.fill("evenodd");
      frame(context, area, "#ffffff", 1);
    }
    for (const [colour, patches] of scene.marks) for (const patch of patches) frame(context, cell(picture, patch, at), colour, 2);
    if (scene.hover >= 0) frame(context, cell(picture, scene.hover, at), "#ffffff", 1);
    if (scene.pinned >= 0) frame(context, cell(picture, scene.pinned, at), ink.pin, 2);
    if (scene.point !== null) line(context, panel, at.x(scene.point), "rgba(255, 255, 255, 0.35)", 1);
    if (scene.cursor !== null) {
      line(context, panel, at.x(scene.cursor), "rgba(0, 0, 0, 0.6)", 4);
      line(context, panel, at.x(scene.cursor), "#ffffff", 2);
    }
  }

  function line(context, panel, x, colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(x, panel.y);
    context.lineTo(x, panel.y + panel.h);
    context.stroke();
  }

  function drawAxes(context, panel, scene, at) {
    const { picture, ink, narrow } = scene, { bins } = picture.grid;
    context.font = ink.font;
    context.textBaseline = "middle";
    context.fillStyle = ink.quiet;
    context.strokeStyle = ink.quiet;
    context.lineWidth = 1;
    let before = Infinity;
    for (const hertz of hertzes(picture)) {
      const y = at.y(Math.min(picture.binOf(hertz), bins));
      if (before - y < 15) continue;
      before = y;
      context.textAlign = "right";
      context.fillText(hertzWords(hertz), panel.x - 6, Math.max(y, panel.y + 5));
      tick(context, panel.x - 4, y);
    }
    const step = panel.h < 200 ? bins / 2 : bins / 4;
    for (let bin = 0; bin <= bins; bin += step) {
      context.textAlign = "left";
      const y = Math.min(Math.max(at.y(bin), panel.y + 5), panel.y + panel.h - 5);
      context.fillText(`${Math.round(bin)}`, panel.x + panel.w + 6, y);
      tick(context, panel.x + panel.w, at.y(bin));
    }
    if (panel.title) {
      context.textAlign = "left";
      context.fillStyle = ink.text;
      context.font = ink.heading;
      context.fillText(panel.title[0], panel.x, panel.y - HEADING / 2);
      const wide = context.measureText(panel.title[0]).width;
      context.font = ink.font;
      context.fillStyle = ink.quiet;
      if (!narrow) context.fillText(panel.title[1], panel.x + wide + 8, panel.y - HEADING / 2);
    }
  }

  function tick(context, x, y) {
    context.beginPath();
    context.moveTo(x, Math.round(y) + 0.5);
    context.lineTo(x + 4, Math.round(y) + 0.5);
    context.stroke();
  }

  function drawSeconds(context, scene) {
    const { picture, from, to, ink, panels } = scene, { data } = picture;
    const panel = panels[panels.length - 1], bottom = panel.y + panel.h, at = scales(panel, scene);
    const seconds = (value) => data.start + picture.timeOf(value);
    const step = stepOf(seconds(to) - seconds(from), panel.w), digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    context.font = ink.font;
    context.fillStyle = ink.quiet;
    context.strokeStyle = ink.quiet;
    context.textAlign = "center";
    context.textBaseline = "top";
    context.lineWidth = 1;
    for (let count = Math.ceil(seconds(from) / step - 1e-9); count * step <= seconds(to) + 1e-9; count++) {
      const x = Math.round(at.x(picture.frameOf(count * step - data.start))) + 0.5;
      context.beginPath();
      context.moveTo(x, bottom);
      context.lineTo(x, bottom + 4);
      context.stroke();
      if (x > panel.x + 66 && x < panel.x + panel.w - 30) context.fillText((count * step).toFixed(digits), x, bottom + 7);
    }
    context.textAlign = "left";
    context.fillText("Hz", 4, bottom + 7);
    context.fillText("seconds", panel.x, bottom + 7);
    context.textAlign = "right";
    context.fillText("mel bin", scene.width - 2, bottom + 7);
  }

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, { layout, draw, overlay, hertzes, hertzWords });
})();
