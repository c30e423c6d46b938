// The view of a map: a dot for each window of many sounds.
(() => {
  const SLOT = "ssast-lab-map", REACH = 12, AGAIN = 700; // pixels around the pointer; milliseconds between two looks at a layout
  const HUES = ["#0d9488", "#e8590c", "#1c7ed6", "#ae3ec9", "#f0b429", "#e03131", "#74b816", "#6741d9", "#0ca678", "#f06595", "#845ef7", "#868e96"];
  const COLOURINGS = [["folder", "Folder", "by the folder that a sound lies in"], ["file", "File", "a colour for each file"], ["alike", "Likeness", "eight groups of similar windows, by k-means"]];
  const METHODS = { pca: "PCA", umap: "UMAP", "t-sne": "t-SNE" };

  const markup = `
    <div class="map-form">
      <label class="view-select">Sounds <select name="source"><option value="">the built-in ones</option><option value="files">my files, or a zip</option><option value="folder">a folder of mine</option></select></label>
      <input type="file" name="files" multiple accept="audio/*,video/*,.zip,.wav,.wave,.rf64,.w64,.flac,.aif,.aiff,.aifc,.au,.snd,.caf,.sph,.nist,.voc,.paf,.svx,.8svx,.avr,.ircam,.sf,.tta,.wv,.ogg,.oga,.ogv,.opus,.spx,.mp2,.mp3,.mpga,.aac,.adts,.ac3,.eac3,.amr,.awb,.wma,.asf,.wmv,.ra,.rm,.m4a,.m4b,.m4r,.m4v,.mp4,.mov,.3gp,.3g2,.f4a,.f4v,.webm,.weba,.mka,.mkv,.avi,.flv,.mpg,.mpeg,.vob,.ts,.mts,.m2ts" aria-label="Files" hidden><input type="file" name="folder" webkitdirectory aria-label="Folder" hidden>
      <label class="view-select">Windows of <select name="seconds"></select></label>
      <button type="button" data-do="measure" class="train-main">Measure</button>
      <button type="button" data-do="stop">Stop</button><button type="button" data-do="go">Go on</button>
      <progress max="1" value="0" aria-label="Measured"></progress><span class="view-quiet map-said"></span>
    </div>
    <p class="view-refused map-trouble" role="alert"></p>
    <div class="map-whole">
      <div class="stage-bar">
        <span class="map-methods"></span>
        <label class="view-select">Layer <select name="layer"></select></label>
        <span class="view-quiet">Colour by</span><span class="map-colours">${ssast.choice("Colour by", COLOURINGS)}</span>
      </div>
      <canvas class="map-canvas" tabindex="0" role="img" aria-label="A map: each dot is a window of a sound"></canvas>
      <p class="view-line map-line"></p>
      <div class="view-chips map-legend"></div>
      <div class="view-chips map-nearest" role="group" aria-label="Nearest windows"></div>
      <p class="view-quiet map-left"></p>
      <p class="view-quiet map-passed"></p>
    </div>`;

  const drawn = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const pathOf = (file) => file.webkitRelativePath || file.name;
  const folderOf = (name) => (name.includes("/") ? name.slice(0, name.lastIndexOf("/")) : "no folder");

  ssast.view("map", (element, host) => {
    element.innerHTML = markup;
    const { stage } = host, find = (selector) => element.querySelector(selector), canvas = find("canvas"), context = canvas.getContext("2d"), { escape } = ssast;
    let data = null, name = sessionStorage.getItem(SLOT), going = false, sending = false, timer = 0, files = [], said = "";
    let dots = null, colouring = "folder", group = -1; // dots: { x, y, sound, second, alike } of arrays; group: the one that is pointed at in the legend
    let view = { x: 0, y: 0, zoom: 1 }, drag = null, hover = -1, chosen = -1, playing = null;
    let asked = { method: "pca", layer: null };

    const ask = (more = {}) => host.ask({ map: name, ...asked, go: going, ...more });

    function show(answer) {
      const first = !data;
      data = answer;
      clearTimeout(timer);
      if (first) {
        find("[name=seconds]").innerHTML = data.choices.seconds.map((seconds) => `<option value="${seconds}"${seconds === 2 ? " selected" : ""}>${seconds} s</option>`).join("");
        find(".map-methods").innerHTML = ssast.choice("Layout", data.choices.methods.map((method) => [method, METHODS[method], method === "pca" ? "at once" : "keeps neighbours together; takes seconds"]));
        if (data.state === "none" && name) return ask();
        if (data.state === "none") return measure([]); // the built-in sounds, which take a moment
      }
      if (data.state === "none" && !data.trouble && !sending && name && !first) [name, going] = [null, false];
      if (data.state !== "none") read();
      redraw();
      hear();
      if (data.state === "measuring" && going) ask({ go: true });
      else if (data.waits) timer = setTimeout(() => ask({ go: false }), AGAIN);
    }

    function read() {
      const floats = (key) => new Float32Array(ssast.bytes(data[key]).buffer), points = floats("points"), sound = new Int32Array(ssast.bytes(data.sound).buffer);
      const many = sound.length, x = new Float32Array(many), y = new Float32Array(many);
      const side = (at) => { // the middle and half the span of most of the dots
        let [low, high] = [Infinity, -Infinity];
        for (let i = at; i < points.length; i += 2) [low, high] = [Math.min(low, points[i]), Math.max(high, points[i])];
        return [(low + high) / 2, (high - low) / 2 || 1];
      };
      const [[mx, sx], [my, sy]] = [side(0), side(1)];
      for (let i = 0; i < many; i++) [x[i], y[i]] = [(points[2 * i] - mx) / sx, (points[2 * i + 1] - my) / sy];
      dots = { x, y, sound, second: floats("second"), alike: ssast.bytes(data.alike) };
      if (hover >= many) hover = -1;
      if (chosen >= many) chosen = -1;
    }

    // ---- what is seen ----

    function groupsOf() {
      if (colouring === "alike") return { of: dots.alike, names: [...new Set(dots.alike)].sort((one, other) => one - other).map((at) => `group ${at + 1}`) };
      const key = (at) => (colouring === "file" ? data.names[at] : folderOf(data.names[at]));
      const places = new Map();
      for (const at of data.names.keys()) if (!places.has(key(at))) places.set(key(at), places.size);
      const ofSound = data.names.map((_, at) => places.get(key(at)));
      return { of: Int32Array.from(dots.sound, (at) => ofSound[at]), names: [...places.keys()] };
    }

    let groups = null;
    const hue = (at) => HUES[at % HUES.length];

    function redraw() {
      const { state, measured, total } = data, there = state !== "none";
      find(".map-whole").hidden = !there;
      for (const input of element.querySelectorAll("input[type=file]")) input.hidden = find("[name=source]").value !== input.name;
      find("[data-do=measure]").disabled = sending;
      find("[data-do=measure]").hidden = state === "measuring" && going;
      find("[data-do=stop]").hidden = !(state === "measuring" && going);
      find("[data-do=go]").hidden = !(state === "measuring" && !going);
      find("progress").hidden = state !== "measuring";
      find("progress").value = measured / total || 0;
      find(".map-trouble").textContent = data.trouble ?? "";
      find(".map-trouble").hidden = !data.trouble;
      find(".map-said").textContent = said || (there ? `${dots.x.length} windows of ${measured}${state === "measuring" ? ` of ${total}` : ""} sounds` : "");
      if (!there) return;
      ssast.choose(find(".map-methods"), asked.method);
      ssast.choose(find(".map-colours"), colouring);
      for (const button of element.querySelectorAll(".map-methods button")) button.disabled = state !== "done" && button.dataset.choose !== "pca";
      const layer = find("[name=layer]");
      if (layer.options.length !== data.layers) layer.innerHTML = Array.from({ length: data.layers }, (_, at) => `<option value="${at}">${at + 1}</option>`).join("");
      layer.value = data.layer;
      groups = groupsOf();
      const shown = groups.names.slice(0, 16), more = groups.names.length - shown.length;
      find(".map-legend").innerHTML = shown.map((title, at) => `<button type="button" data-group="${at}"><i style="background: ${hue(at)}"></i>${escape(title)}</button>`).join("") + (more > 0 ? `<span>and ${more} more</span>` : "");
      find(".map-nearest").innerHTML = data.nearest ? `<span>Most like what the stage shows:</span>${data.nearest.map(([at, cosine]) =>
        `<button type="button" data-window="${at}">${escape(title(at))}<i>${cosine.toFixed(2)}</i></button>`).join("")}` : data.same_model ? "" : "<span>The stage uses another model than this map: measure again to find what is near.</span>";
      const rest = data.left_out_all - data.left_out.length;
      const listed = (entries) => entries.map(([one, why]) => `${one} (${why.replace(/\.$/, "")})`).join("; ");
      find(".map-left").textContent = [data.left_out_all ? `Left out: ${listed(data.left_out)}${rest ? `; and ${rest} more` : ""}.` : "", data.noticed.length ? `Noticed: ${listed(data.noticed)}.` : ""].join(" ").trim();
      find(".map-passed").textContent = data.passed ? `Passed over: ${data.passed}.` : "";
      draw();
    }

    const title = (at) => `${data.names[dots.sound[at]].split("/").at(-1)}, ${dots.second[at].toFixed(1)} s`;

    function place(at, wide, high) {
      return [wide / 2 + (dots.x[at] - view.x) * view.zoom * (wide / 2 - 14), high / 2 - (dots.y[at] - view.y) * view.zoom * (high / 2 - 14)];
    }

    let waiting = 0;
    function draw() {
      waiting ||= requestAnimationFrame(() => {
        waiting = 0;
        if (!dots || !canvas.clientWidth) return;
        const wide = canvas.clientWidth, high = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
        if (canvas.width !== Math.round(wide * ratio)) Object.assign(canvas, { width: Math.round(wide * ratio), height: Math.round(high * ratio) });
        context.setTransform(ratio, 0, 0, ratio, 0, 0);
        context.clearRect(0, 0, wide, high);
        const size = dots.x.length > 1500 ? 2.2 : dots.x.length > 300 ? 3 : 4.5;
        for (let at = 0; at < dots.x.length; at++) {
          const [x, y] = place(at, wide, high);
          context.globalAlpha = group >= 0 && groups.of[at] !== group ? 0.12 : 0.8;
          context.fillStyle = hue(groups.of[at]);
          context.beginPath();
          context.arc(x, y, size, 0, 7);
          context.fill();
        }
        context.globalAlpha = 1;
        const style = getComputedStyle(element), ring = (at, colour, width, more) => {
          const [x, y] = place(at, wide, high);
          context.lineWidth = width;
          context.strokeStyle = colour;
          context.beginPath();
          context.arc(x, y, size + more, 0, 7);
          context.stroke();
        };
        for (const [at] of data.nearest ?? []) ring(at, style.getPropertyValue("--stage-text"), 1, 2);
        if (chosen >= 0) ring(chosen, style.getPropertyValue("--stage-pin"), 3, 4);
        if (hover >= 0) {
          ring(hover, style.getPropertyValue("--stage-text"), 2, 4);
          label(hover, wide, high, style);
        }
        canvas.setAttribute("aria-label", `Map of ${dots.x.length} windows of ${data.measured} sounds`);
        find(".map-line").textContent = hover >= 0 ? `${data.names[dots.sound[hover]]}, ${dots.second[hover].toFixed(1)} to ${(dots.second[hover] + data.seconds).toFixed(1)} s`
          : "Point at a dot; the wheel zooms, dragging moves, a double click shows all. Rings are what is most like the stage.";
      });
    }

    // The name beside a dot, on the side where there is room.
    function label(at, wide, high, style) {
      const [x, y] = place(at, wide, high), words = title(at);
      context.font = `12px ${style.fontFamily}`;
      const long = context.measureText(words).width + 12, left = x + 12 + long > wide ? x - 12 - long : x + 12, top = Math.min(Math.max(y - 10, 2), high - 22);
      context.fillStyle = "rgba(0, 0, 0, 0.8)";
      context.fillRect(left, top, long, 20);
      context.fillStyle = "#fff";
      context.fillText(words, left + 6, top + 14);
    }

    function under(event) {
      const area = canvas.getBoundingClientRect(), px = event.clientX - area.left, py = event.clientY - area.top;
      let [best, least] = [-1, REACH ** 2];
      for (let at = 0; dots && at < dots.x.length; at++) {
        const [x, y] = place(at, area.width, area.height), apart = (x - px) ** 2 + (y - py) ** 2;
        if (apart < least) [best, least] = [at, apart];
      }
      return best;
    }

    // ---- what is heard ----

    function go(at) {
      chosen = at;
      playing = { before: stage.state().picture.data.key, second: dots.second[at] };
      host.act({ map: name, window: at });
      draw();
    }

    // Once the stage has the window's sounds, the window is played.
    function hear() {
      if (!playing) return;
      const { picture, ready } = stage.state();
      if (picture.data.key !== playing.before && ready) {
        const from = playing.second - picture.data.start; // where a window near the end of a sound lies within the excerpt
        stage.listen(Math.max(from, 0), Math.max(from, 0) + data.seconds, "original");
        playing = null;
      } else setTimeout(hear, 50);
    }

    // ---- what is touched ----

    function measure(sent) {
      name = drawn();
      sessionStorage.setItem(SLOT, name);
      [going, chosen, hover, dots, view] = [true, -1, -1, null, { x: 0, y: 0, zoom: 1 }];
      asked = { method: "pca", layer: null };
      ask({ do: "start", files: sent, seconds: Number(find("[name=seconds]").value) });
    }

    async function start() {
      const source = find("[name=source]").value, sent = [], given = source ? files : [];
      if (source && !given.length) {
        said = "Choose some sounds first.";
        return redraw();
      }
      sending = true;
      try {
        for (const [at, file] of given.entries()) {
          said = `sending ${at + 1} of ${given.length}…`;
          redraw();
          const { path } = await host.upload(file);
          sent.push({ path, name: pathOf(file) });
        }
        said = "";
      } catch {
        said = "The sounds could not be sent: choose smaller or fewer files.";
        return;
      } finally {
        sending = false;
        redraw();
      }
      measure(sent);
    }

    element.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (!button) return;
      const { do: act, choose, window: at } = button.dataset;
      if (act === "measure") start();
      else if (act === "stop") {
        going = false;
        redraw();
      } else if (act === "go") {
        going = true;
        ask();
      } else if (at) go(Number(at));
      else if (choose in METHODS) {
        asked.method = choose;
        view = { x: 0, y: 0, zoom: 1 };
        ask();
      } else if (choose) {
        colouring = choose;
        redraw();
      }
    });
    element.addEventListener("change", ({ target }) => {
      if (target.type === "file") files = [...target.files].filter((file) => !file.name.startsWith(".")).sort((one, other) => pathOf(one).localeCompare(pathOf(other), undefined, { numeric: true }));
      if (target.name === "source") files = [];
      if (target.name === "layer") {
        asked.layer = Number(target.value);
        ask();
      } else redraw();
    });
    element.addEventListener("pointerover", ({ target }) => {
      const { group: at, window: one } = target.closest("button")?.dataset ?? {};
      group = at === undefined ? -1 : Number(at);
      if (one !== undefined) hover = Number(one);
      draw();
    });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      drag = { x: event.clientX, y: event.clientY, from: { ...view }, far: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
        drag.far ||= Math.hypot(dx, dy) > 4;
        if (drag.far) Object.assign(view, { x: drag.from.x - dx / (view.zoom * (canvas.clientWidth / 2 - 14)), y: drag.from.y + dy / (view.zoom * (canvas.clientHeight / 2 - 14)) });
      } else hover = under(event);
      draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      const far = drag?.far;
      drag = null;
      if (!far && under(event) >= 0) go(under(event));
    });
    canvas.addEventListener("pointerleave", () => {
      hover = -1;
      draw();
    });
    canvas.addEventListener("dblclick", () => {
      view = { x: 0, y: 0, zoom: 1 };
      draw();
    });
    canvas.addEventListener("wheel", (event) => {
      if (event.ctrlKey) return;
      event.preventDefault();
      const area = canvas.getBoundingClientRect(), at = [(event.clientX - area.left - area.width / 2) / (area.width / 2 - 14), -(event.clientY - area.top - area.height / 2) / (area.height / 2 - 14)];
      const zoom = Math.min(Math.max(view.zoom * Math.exp(-event.deltaY * 0.002), 1), 60);
      view = { x: view.x + at[0] / view.zoom - at[0] / zoom, y: view.y + at[1] / view.zoom - at[1] / zoom, zoom };
      if (zoom === 1) view = { x: 0, y: 0, zoom };
      draw();
    }, { passive: false });
    new ResizeObserver(draw).observe(canvas);
    canvas.map = { // for whoever looks from outside
      place: (at) => place(at, canvas.clientWidth, canvas.clientHeight),
      get state() { return { many: dots?.x.length ?? 0, hover, chosen, data, dots, view }; },
    };

    return { show, close: () => clearTimeout(timer) };
  });
})();
