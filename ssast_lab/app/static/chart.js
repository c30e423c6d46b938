// A chart of lines in an SVG, with a read-out under the pointer. `ssast.chart(element, spec)` draws it into an element:
//
//   title, unit    what is drawn; `percent` writes shares as such
//   x: { label, from, to, write(value) }
//   zero           whether the axis begins at 0; `top`: where it ends
//   lines          [{ name, colour, points: [[x, y, low, high], ...], dashed, dots, quiet }]: low and high, where given, are a band
//   mark           an x that is marked
//   click(x)       the nearest x of the lines is chosen
(() => {
  const LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 34;

  const escape = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

  function round(value, percent) {
    if (percent) return ssast.percent(value);
    const size = Math.abs(value);
    return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  }

  // Round values between two, about as many as asked for.
  function ticks(from, to, many) {
    const least = (to - from) / many || 1, power = 10 ** Math.floor(Math.log10(least));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= least * 0.999), found = [];
    for (let value = Math.ceil(from / step - 1e-9) * step; value <= to + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
    return found;
  }

  function chart(element, spec) {
    const width = Math.max(element.clientWidth, 160), height = spec.height ?? 190, { percent } = spec;
    const write = spec.x.write ?? ((value) => String(+value.toFixed(2)));
    const all = spec.lines.flatMap(({ points }) => points), values = all.flatMap(([, y, low, high]) => [y, low ?? y, high ?? y]).filter(Number.isFinite);
    let [low, high] = [spec.zero ? 0 : Math.min(...values), spec.top ?? Math.max(...values)];
    if (!values.length) [low, high] = [0, 1];
    if (high - low < 1e-9) [low, high] = [low - 0.5 * !spec.zero, high + 0.5];
    const room = 0.05 * (high - low);
    [low, high] = [spec.zero ? low : low - room, spec.top ?? high + room];
    const [from, to] = [spec.x.from ?? Math.min(...all.map(([x]) => x)), spec.x.to ?? Math.max(...all.map(([x]) => x))];
    const x = (value) => LEFT + ((width - LEFT - RIGHT) * (value - from)) / (to - from || 1), y = (value) => height - BOTTOM - ((height - TOP - BOTTOM) * (value - low)) / (high - low);
    const seen = (points) => points.filter(([, value]) => Number.isFinite(value));
    const path = (points) => seen(points).map(([at, value], i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const band = (points) => {
      const known = points.filter(([, , least, most]) => Number.isFinite(least) && Number.isFinite(most));
      return known.length > 1 ? `M${known.map(([at, , , most]) => `${x(at).toFixed(1)} ${y(most).toFixed(1)}`).join("L")}L${known.toReversed().map(([at, , least]) => `${x(at).toFixed(1)} ${y(least).toFixed(1)}`).join("L")}Z` : "";
    };
    const names = spec.lines.filter(({ name }) => name).map(({ name, colour, dashed }) => `<span><i style="border-top: 2px ${dashed ? "dashed" : "solid"} ${colour}"></i>${escape(name)}</span>`).join("");
    element.classList.add("chart");
    element.innerHTML = `<h4>${escape(spec.title)} <span>${escape(spec.unit ?? "")}</span><output></output></h4>
      <svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(spec.title)}"${spec.click ? ' class="is-clicked"' : ""}>
        ${ticks(low, high, 5).map((value) => `<path class="rule" d="M${LEFT} ${y(value).toFixed(1)}H${width - RIGHT}"/><text x="${LEFT - 6}" y="${y(value) + 3.5}" text-anchor="end">${round(value, percent)}</text>`).join("")}
        ${ticks(from, to, width / 70).map((value) => `<text x="${x(value)}" y="${height - BOTTOM + 14}" text-anchor="middle">${escape(write(value))}</text>`).join("")}
        <text x="${(LEFT + width - RIGHT) / 2}" y="${height - 4}" text-anchor="middle">${escape(spec.x.label)}</text>
        ${spec.mark === undefined || spec.mark === null ? "" : `<path class="mark" d="M${x(spec.mark)} ${TOP}V${height - BOTTOM}"/>`}
        ${spec.lines.map(({ points, colour, dashed, dots, quiet }) => `<path d="${band(points)}" fill="${colour}" fill-opacity="0.16"/>
          <path d="${path(points)}" fill="none" stroke="${colour}" stroke-width="${quiet ? 1 : 1.8}"${quiet ? ' stroke-opacity="0.45"' : ""}${dashed ? ' stroke-dasharray="5 4"' : ""}/>
          ${dots ? seen(points).map(([at, value]) => `<circle cx="${x(at).toFixed(1)}" cy="${y(value).toFixed(1)}" r="3" fill="${colour}"/>`).join("") : ""}`).join("")}
        <path class="cursor"/>
      </svg>${names ? `<p class="chart-names">${names}</p>` : ""}`;
    const svg = element.querySelector("svg"), output = element.querySelector("output"), cursor = element.querySelector(".cursor");
    const places = [...new Set(all.map(([at]) => at))];

    function nearest(event) {
      const at = event.clientX - svg.getBoundingClientRect().left;
      return places.reduce((best, place) => (Math.abs(x(place) - at) < Math.abs(x(best) - at) ? place : best), places[0]);
    }
    svg.onpointermove = (event) => {
      if (!places.length) return;
      const place = nearest(event), said = spec.lines.toReversed().flatMap(({ name, points, constant }) => {
        const point = points.find(([at, value]) => at === place && Number.isFinite(value));
        return point && !constant ? [`${spec.lines.length > 1 && name ? `${name} ` : ""}${round(point[1], percent)}${Number.isFinite(point[2]) && point[3] > point[2] ? ` (${round(point[2], percent)} to ${round(point[3], percent)})` : ""}`] : [];
      });
      output.textContent = `${write(place)}: ${said.join(", ")}`;
      cursor.setAttribute("d", `M${x(place)} ${TOP}V${height - BOTTOM}`);
    };
    svg.onpointerleave = () => {
      output.textContent = "";
      cursor.removeAttribute("d");
    };
    if (spec.click) svg.onclick = (event) => places.length && spec.click(nearest(event));
  }

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, { chart, escape });
})();
