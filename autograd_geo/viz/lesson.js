"use strict";

/* Shows a lesson in `root`; `data` is what lesson_page.py's lesson_data makes, `keys` where keys are listened for. */
const mountLesson = (() => {
  const SKELETON = `
    <section class="picture" aria-label="Computation graph">
      <div class="drawing"></div><p class="remark"></p><div class="near" aria-label="Around the present step"></div>
    </section>
    <section class="card" aria-label="Step">
      <p class="kind"></p><h2 class="title"></h2>
      <div class="formulas"></div>
      <form class="quiz" hidden>
        <div class="given"></div>
        <label class="asked"><span></span><input inputmode="text" autocomplete="off" spellcheck="false"
          placeholder="its value" data-lm-suppress-shortcuts="true"></label>
        <button class="try">Check</button><button type="button" class="reveal">Show it</button>
        <fieldset><legend>or pick the expression</legend><div class="options"></div></fieldset>
      </form>
      <p class="verdict" role="status"></p>
      <p class="check"></p><p class="note"></p>
      <figure class="source"><figcaption></figcaption><code></code></figure>
    </section>
    <section class="known" aria-label="All values and derivatives" tabindex="0"></section>
    <section class="controls" aria-label="Player">
      <button class="prev" title="Back (←)" aria-label="One step back">‹</button>
      <button class="play" title="Play (space)"><span class="sign"></span><span class="word"></span></button>
      <button class="next" title="On (→)" aria-label="One step on">›</button>
      <div class="scrub">
        <div class="rail">
          <div class="track" aria-hidden="true"></div>
          <input class="scrubber" type="range" min="0" step="1" aria-label="Step">
        </div>
        <output class="place"></output>
      </div>
      <button class="more" aria-label="More controls" aria-expanded="false">⋯</button>
      <div class="menu">
        <button class="first" title="First step (Home)" aria-label="First step">«<span class="word"> First</span></button>
        <button class="last" title="Last step (End)" aria-label="Last step"><span class="word">Last </span>»</button>
        <label>Speed <select class="speed"><option value="3000">slow</option><option value="1500" selected>normal</option>
          <option value="600">fast</option><option value="150">very fast</option><option value="16">film</option>
        </select></label>
        <label><input class="ask" type="checkbox"> Predict first</label>
      </div>
    </section>
    <p class="spoken" role="status" aria-live="polite"></p>`;
  const WORDS = {
    given: "given", forward: "forward", seed: "start", local: "local derivative", accumulate: "paths meet",
    write: "gradient", update: "update",
  };

  return (root, data, keys = root) => {
    const find = (selector) => root.querySelector(selector);
    const element = (tag, className = "", text = "") => {
      const made = document.createElement(tag);
      if (className) made.className = className;
      made.textContent = text;
      return made;
    };
    root.classList.add("ag-lesson");
    root.innerHTML = SKELETON;

    // --- what is known when: for each value the steps at which it, or the derivative by it, becomes known
    const last = data.steps.length - 1;
    const words = data.words;
    const kindOf = (k) => words[data.steps[k][0]];
    const computed = new Array(data.nodes.length).fill(-1);
    const changes = data.nodes.map(() => []);
    const written = new Map();
    const cards = data.drawing.cards;
    const flows = new Map();  // "card>card" to the steps of local derivatives by values of the first
    data.steps.forEach(([, node, operand], k) => {
      const kind = kindOf(k);
      if (kind === "given" || kind === "forward") computed[node] = k;
      else if (kind === "local") {
        if (!changes[operand].length) changes[operand].push(k);
        const edge = `${cards[operand]}>${cards[node]}`;
        flows.set(edge, [...(flows.get(edge) || []), k]);
      } else if (kind === "write") written.set(node, k);
      else if (kind !== "update") changes[node].push(k);
    });
    const isKnown = (node, k) => computed[node] >= 0 && computed[node] <= k;
    const derivative = (node, k) => {
      const steps = changes[node];
      let low = 0, high = steps.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (steps[middle] <= k) low = middle + 1; else high = middle;
      }
      return low ? data.steps[steps[low - 1]][3] : null;
    };
    const minus = (text) => text.replace(/-/g, "−");

    // --- formulas: templates are ours, what fills them is text only
    const parsed = new Map();
    const formula = (template, fills) => {
      if (!parsed.has(template)) {
        const holder = element("span", "formula");
        holder.innerHTML = data.templates[template].map((side) => `<math displaystyle="true">${side}</math>`).join(" ");
        parsed.set(template, holder);
      }
      const made = parsed.get(template).cloneNode(true);
      for (const place of made.querySelectorAll("[data-fill]")) {
        const fill = fills[place.dataset.fill];
        if (typeof fill === "number") place.replaceWith(named(...data.nodes[fill]));
        else if (/^\[\[?[^[\]]+\]/.test(fill)) place.replaceWith(matrix(fill));
        else if (/^[\d.]+e/.test(fill)) place.replaceWith(scientific(fill));
        else place.textContent = fill;
      }
      return made;
    };
    const MATHML = "http://www.w3.org/1998/Math/MathML";
    const math = (tag, ...parts) => {
      const made = document.createElementNS(MATHML, tag);
      made.append(...parts);
      return made;
    };
    const named = (name, index) => {
      if (!index) return math("mi", name);
      const digits = name.slice(-index).replace(/[₀-₉]/g, (digit) => digit.codePointAt(0) - 0x2080);
      return math("msub", math("mi", name.slice(0, -index)), math("mn", digits));
    };
    const scientific = (text) => {
      const [digits, power] = text.split("e");
      const exponent = math("mn", power.replace(/^(.?)0*/, "$1").replace("+", ""));
      return math("mrow", math("mn", digits), math("mo", "·"), math("msup", math("mn", "10"), exponent));
    };
    const matrix = (text) => {
      const rows = text.slice(1, -1).split("]").map((row) => row.replace(/^[\s,[]+/, "")).filter((row) => row);
      const cell = (number) => math("mtd", math("mn", minus(number.trim())));
      const made = rows.map((row) => math("mtr", ...row.split(",").map(cell)));
      const table = math("mtable", ...made);
      table.setAttribute("class", "matrix");
      return table;
    };
    const formulas = ([row, ...fills]) => data.rows[row].filter((t) => t >= 0).map((t) => formula(t, fills));

    // --- pictures
    const drawing = find(".drawing");
    const boxes = new Map(), edges = [];  // by card: its element, when it is first computed, where its gradient stands
    const isWhole = cards.length > 0 && cards.every((card, n) => card === n || card < 0);
    if (data.drawing.svg) {
      drawing.innerHTML = data.drawing.svg;
      const svg = drawing.querySelector("svg");
      const { width, height } = svg.viewBox.baseVal;
      drawing.style.setProperty("--wide", `${width}px`);
      drawing.style.setProperty("--high", `${height}px`);
      drawing.style.setProperty("--ratio", width / height);
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", `Computation graph of ${data.top}`);
      const starts = new Map();
      cards.forEach((card, n) => {
        if (computed[n] >= 0) starts.set(card, Math.min(computed[n], starts.get(card) ?? Infinity));
      });
      const seen = new Map();
      for (const group of svg.querySelectorAll("g.node, g.edge")) {
        const [, from, to] = /^c(\d+)(?:-c(\d+))?$/.exec(group.id) || [];
        group.querySelector("title")?.remove();
        group.removeAttribute("id");
        if (to === undefined && starts.has(Number(from))) {
          const lines = [...group.querySelectorAll("text")];
          const slope = lines.find((t) => /^\s*gradient/.test(t.textContent));
          const room = Math.max(...lines.map((t) => t.textContent.length));
          boxes.set(Number(from), { group, slope, room, start: starts.get(Number(from)) });
          group.onclick = () => move(starts.get(Number(from)));
        } else if (to !== undefined) {
          const edge = `${from}>${to}`, n = seen.get(edge) || 0, passes = flows.get(edge) || [];
          const single = Number(from) < data.nodes.length && Number(to) < data.nodes.length;
          seen.set(edge, n + 1);
          edges.push({ group, passes: new Set(single ? passes.slice(n, n + 1) : passes) });
        }
      }
    }
    drawing.hidden = !data.drawing.svg;
    drawing.classList.toggle("overview", !isWhole);
    find(".near").hidden = isWhole;
    find(".remark").textContent = data.drawing.note;

    const keepInSight = (window, groups) => {  // where a drawing is larger than its window
      if (!groups.length) return;
      const frame = window.getBoundingClientRect(), places = groups.map((group) => group.getBoundingClientRect());
      const missing = (low, high, length) => {
        let from = Math.min(...places.map((p) => p[low])), to = Math.max(...places.map((p) => p[high]));
        if (from >= frame[low] && to <= frame[high]) return 0;
        if (to - from > length) [from, to] = [places[0][low], places[0][high]];
        return (from + to - frame[low] - frame[high]) / 2;
      };
      window.scrollLeft += missing("left", "right", frame.width);
      window.scrollTop += missing("top", "bottom", frame.height);
    };
    const write = (slope, room, text) => {  // into a card that was made for so many letters
      slope.textContent = slope.textContent.replace(/gradient.*/, text);
      slope.removeAttribute("textLength");
      if (slope.textContent.length <= room) return;
      const card = slope.parentElement.querySelector("path, rect").getBBox();
      slope.setAttribute("textLength", Math.max(card.x + card.width - 6 - slope.getAttribute("x"), 1));
      slope.setAttribute("lengthAdjust", "spacingAndGlyphs");
    };
    const paintDrawing = (k, live) => {
      for (const [card, { group, slope, room, start }] of boxes) {
        group.classList.toggle("dim", start > k);
        group.classList.toggle("live", card === cards[live]);
        if (slope && changes[card].length) {
          const value = derivative(card, k);
          write(slope, room, `gradient ${value === null ? "?" : minus(value)}`);
        }
      }
      for (const { group, passes } of edges) {
        group.classList.toggle("passed", passes.size > 0 && passes.values().next().value <= k);
        group.classList.toggle("live", passes.has(k));
      }
    };
    const box = (n, k, live) => {
      const made = element("div", live ? "box live" : "box");
      made.append(element("b", "", data.nodes[n][0]), element("span", "", isKnown(n, k) ? minus(data.nodes[n][2]) : "·"));
      const value = derivative(n, k);
      if (changes[n].length) made.append(element("i", "", `gradient ${value === null ? "?" : minus(value)}`));
      return made;
    };
    const readers = data.nodes.map(() => []);
    data.nodes.forEach(([, , , inputs], n) => inputs.forEach((i) => readers[i].push(n)));
    const column = (nodes, k, live) => {
      const made = element("div", "column");
      for (const n of nodes.slice(0, 3)) made.append(box(n, k, n === live));
      if (nodes.length > 3) made.append(element("span", "rest", `and ${nodes.length - 3} more`));
      return made;
    };
    const paintNear = (k, kind, node, live) => {
      const first = (nodes, n) => [...new Set(nodes.includes(n) ? [n, ...nodes] : nodes)];
      const via = kind === "accumulate" ? data.steps[position - 1][1] : -1;  // the path that arrives
      const parts = [first(data.nodes[node][3], live), [node], first(readers[node], via)].filter((p) => p.length);
      find(".near").replaceChildren(...parts.flatMap((nodes, n) =>
        n ? [element("span", "arrow", "→"), column(nodes, k, live)] : [column(nodes, k, live)]));
    };

    const table = find(".known");
    const rows = [];
    if (data.nodes.length > 400) table.remove();
    else {
      const made = element("table");
      const head = made.createTHead().insertRow();
      for (const text of ["name", "value", `derivative of ${data.top}`]) {
        const cell = element("th", "", text);
        cell.scope = "col";
        head.append(cell);
      }
      const body = made.createTBody();
      data.nodes.forEach(([name]) => {
        const row = body.insertRow();
        const cell = element("th", "", name);
        cell.scope = "row";
        row.append(cell, element("td"), element("td"));
        rows.push(row);
      });
      table.append(made);
    }
    const paintTable = (k, live) => {
      rows.forEach((row, n) => {
        const value = derivative(n, k);
        row.children[1].textContent = isKnown(n, k) ? minus(data.nodes[n][2]) : "";
        row.children[2].textContent = value === null ? "" : minus(value) + (written.get(n) <= k ? " → .grad" : "");
        row.classList.toggle("live", n === live);
      });
    };
    const follow = (node, live) => {  // everything is written by now: it is laid out once
      const parts = [live, node].map((n) => boxes.get(cards[n])).filter((part) => part);
      keepInSight(drawing, parts.map(({ group }) => group));
      keepInSight(find(".near"), [...root.querySelectorAll(".box.live")]);
      const row = rows[live];
      if (row) table.scrollTop = row.offsetTop - (table.clientHeight - row.clientHeight) / 2;
    };

    // --- the quiz: compares with the answers in the data, knows no errors of its own
    const shown = new Set();
    const number = new RegExp(`^(${data.judging.number})(?:/(${data.judging.number}))?$`);
    const read = (text) => {
      const match = number.exec(text.trim().replace(/−/g, "-").replace(/,/g, ".").replace(/ /g, ""));
      if (!match || (match[2] && Number(match[2]) === 0)) return null;
      return Number(match[1]) / Number(match[2] || 1);
    };
    const close = (a, b) => Math.abs(a - b) <=
      Math.max(data.judging.relative * Math.max(Math.abs(a), Math.abs(b)), data.judging.absolute);
    const answered = (option) => {
      const verdict = option === null ? data.judging.unreadable :
        option === undefined ? data.judging.unknown : words[option[2]];
      if (option && option === data.questions[position][1][0]) shown.add(position);
      show(position, verdict);
      if (!asking(position)) find(".next").focus();
    };
    const asking = (k) => find(".ask").checked && k in data.questions && !shown.has(k);
    const ask = (k) => {
      const [given, options] = data.questions[k];
      const [asked, ...known] = formulas(given);
      find(".given").replaceChildren(...known);
      find(".asked span").replaceChildren(asked, " = ");
      const order = [...options].sort((a, b) => (String(a[1]) < String(b[1]) ? -1 : 1));
      find(".options").replaceChildren(...order.map((option) => {
        const button = element("button");
        button.type = "button";
        const [math] = formulas(option[1]);
        button.append(math);
        button.onclick = () => answered(option);
        return button;
      }));
    };
    find(".quiz").onsubmit = (event) => {
      event.preventDefault();
      const value = read(find(".asked input").value);
      answered(value === null ? null : data.questions[position][1].find((option) => close(value, option[0])));
    };
    // Notebooks have shortcuts of their own for Enter: JupyterLab leaves an input alone that is marked as above, others
    // where the key does not reach them.
    find(".asked input").addEventListener("keydown", (event) => event.stopPropagation());
    find(".reveal").onclick = () => { shown.add(position); show(position); find(".next").focus(); };

    // --- one step
    const player = { go: (k) => move(k), moved: () => {} };
    let position = 0, timer = 0;
    const show = (k, verdict = "") => {
      const moved = k !== position;
      position = k;
      if (moved) player.moved(k);
      const [titled, node, operand, value, told, check, note] = data.steps[k];
      const kind = words[titled], hidden = asking(k);
      const title = data.titles[kind].replace(/\{(\d)\}/g, (_, n) => data.nodes[n === "0" ? node : operand][0]);
      root.dataset.step = k;
      root.dataset.kind = kind;
      root.dataset.asking = hidden;
      find(".kind").textContent = WORDS[kind];
      find(".title").textContent = hidden ? "What comes next?" : title;
      find(".formulas").replaceChildren(...(hidden ? [] : formulas(told)));
      find(".quiz").hidden = !hidden;
      if (hidden) {
        if (moved || !find(".options").children.length || !verdict) ask(k);
        if (moved) find(".asked input").value = "";
      }
      find(".verdict").textContent = verdict;
      find(".verdict").className = `verdict ${hidden ? "wrong" : "right"}`;
      const said = hidden || !check ? "" :
        words[check[1]].replace(/\{(\d)\}/g, (_, n) => minus(check[2 + Number(n)]));
      find(".check").textContent = said;
      find(".check").className = `check ${check ? check[0] : ""}`;
      find(".note").textContent = hidden ? "" : words[note];
      const source = data.nodes[node][4];
      find(".source").hidden = !source;
      if (source) {
        const [place, line] = data.lines[source[0]];
        find(".source figcaption").textContent = place;
        find(".source code").replaceChildren(
          line.slice(0, source[1]), element("mark", "", line.slice(source[1], source[2])), line.slice(source[2]));
      }
      const known = hidden ? k - 1 : k, live = kind === "local" ? operand : node;
      paintDrawing(known, live);
      if (!isWhole) paintNear(known, kind, node, live);
      paintTable(known, live);
      find(".scrubber").value = k;
      find(".scrub").style.setProperty("--done", last ? k / last : 1);
      find(".scrubber").setAttribute("aria-valuetext", `Step ${k + 1} of ${last + 1}: ${title}`);
      find(".place").textContent = `${k + 1} / ${last + 1}`;
      find(".spoken").textContent = verdict || (hidden ? "What comes next?" : `Step ${k + 1}. ${title}: ${minus(value)}. ${said}`);
      follow(node, live);
    };
    const go = (k) => show(Math.min(Math.max(k, 0), last));
    const sign = (glyph, word) => {
      find(".play .sign").textContent = glyph;
      find(".play .word").textContent = word;
      find(".play").setAttribute("aria-label", word);
    };
    const stop = () => {
      clearTimeout(timer);
      timer = 0;
      sign("▶\uFE0E", "Play");
    };
    const tick = () => {
      if (position >= last || asking(position)) return stop();
      go(position + 1);
      timer = setTimeout(tick, Number(find(".speed").value));
    };
    const play = () => {
      if (timer) return stop();
      sign("‖", "Pause");
      timer = setTimeout(tick, position >= last ? 0 : Math.min(300, Number(find(".speed").value)));
      if (position >= last) go(0);
    };
    const move = (k) => { stop(); go(k); };

    // --- controls
    const scrubber = find(".scrubber");
    scrubber.max = last;
    let pending = 0;
    scrubber.oninput = () => {  // at most one step is drawn for a frame
      cancelAnimationFrame(pending);
      pending = requestAnimationFrame(() => move(Number(scrubber.value)));
    };
    find(".first").onclick = () => move(0);
    find(".prev").onclick = () => move(position - 1);
    find(".next").onclick = () => move(position + 1);
    find(".last").onclick = () => move(last);
    find(".play").onclick = play;
    const unfold = (open) => {  // the menu, where there is no room for what is in it
      find(".controls").classList.toggle("open", open);
      find(".more").setAttribute("aria-expanded", open);
    };
    find(".more").onclick = () => unfold(!find(".controls").classList.contains("open"));
    root.addEventListener("click", (event) => event.target.closest(".more, .menu") || unfold(false));
    find(".ask").checked = data.quiz;
    find(".ask").onchange = () => show(position);
    keys.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea")) return;
      const page = Math.max(10, Math.round(last / 20));
      const act = {
        ArrowRight: () => move(position + 1), ArrowLeft: () => move(position - 1), Home: () => move(0),
        End: () => move(last), PageDown: () => move(position + page), PageUp: () => move(position - page),
        " ": event.target.closest("button") ? null : play,
        Escape: find(".controls.open") ? () => unfold(false) : null,
      }[event.key];
      if (act) {
        event.preventDefault();
        event.stopPropagation();
        act();
      }
    });

    // The track under the scrubber shows which kinds of steps are where.
    const track = find(".track");
    const cuts = Math.min(last + 1, 240);
    for (let n = 0; n < cuts; n += 1) {
      const piece = element("span");
      piece.dataset.kind = kindOf(Math.floor((n * (last + 1)) / cuts));
      track.append(piece);
    }
    stop();
    show(0);
    return player;
  };
})();
