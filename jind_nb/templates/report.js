"use strict";
// Sort and filter tables, show what is known of the cell under the pointer, and highlight the cells of a legend's entry.
// Without this script the page has the same content.
(() => {
  document.documentElement.classList.add("js");

  const numberIn = (text) => {
    const plain = text.replace(/[,%\s]/g, "");
    return plain === "" || Number.isNaN(Number(plain)) ? null : Number(plain);
  };

  const compare = (a, b) => {
    const [x, y] = [numberIn(a), numberIn(b)];
    return x !== null && y !== null ? x - y : a.localeCompare(b, undefined, { numeric: true });
  };

  const sort = (table, head, column) => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const body = table.tBodies[0];
    const text = (row) => row.cells[column].textContent.trim();
    const missing = (row) => ["", "–"].includes(text(row));
    const rows = [...body.rows].sort((a, b) => missing(a) - missing(b) || sign * compare(text(a), text(b)));
    body.append(...rows);
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  };

  const FILTERED = 8; // rows

  const addFilter = (table) => {
    const box = document.createElement("input");
    box.type = "search";
    box.className = "filter";
    box.placeholder = "Show rows with …";
    const caption = table.caption ? table.caption.textContent : "this table";
    box.setAttribute("aria-label", `Filter the rows of: ${caption}`);
    box.addEventListener("input", () => {
      const words = box.value.trim().toLowerCase();
      for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(words);
    });
    (table.closest(".scrolls") || table).before(box);
  };

  for (const table of document.querySelectorAll("table")) {
    if (!table.tHead) continue;
    const names = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
    table.classList.add("stack"); // on a phone: a card for each row
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, column) => (cell.dataset.head = names[column]));
    }
    if (table.tBodies[0].rows.length < 2) continue;
    if (table.tBodies[0].rows.length >= FILTERED) addFilter(table);
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, column));
    });
  }

  const REACH = 9; // pixels
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  const parsed = new Map();
  const pointData = (id) => {
    if (!parsed.has(id)) parsed.set(id, JSON.parse(document.getElementById(id).textContent));
    return parsed.get(id);
  };

  const nearest = ({ x, y }, image, event) => {
    const box = image.getBoundingClientRect();
    const [u, v] = [event.clientX - box.left, event.clientY - box.top];
    let [found, least] = [-1, REACH ** 2];
    for (let i = 0; i < x.length; i++) {
      const distance = ((x[i] * box.width) / 1e4 - u) ** 2 + ((y[i] * box.height) / 1e4 - v) ** 2;
      if (distance < least) [found, least] = [i, distance];
    }
    return found;
  };

  const showTip = (image, event) => {
    const i = nearest(pointData(image.dataset.where), image, event);
    tip.hidden = i < 0;
    if (i < 0) return;
    const lines = [];
    for (const { name, values, levels } of pointData(image.dataset.what)) {
      const value = levels && values[i] >= 0 ? levels[values[i]] : values[i];
      if (value === null || value === -1) continue;
      const line = document.createElement("div");
      line.textContent = `${name}: ${value}`;
      lines.push(line);
    }
    tip.replaceChildren(...lines);
    const right = document.documentElement.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${window.scrollX + Math.max(4, Math.min(event.clientX + 14, right))}px`;
    tip.style.top = `${window.scrollY + event.clientY + 14}px`;
  };

  for (const image of document.querySelectorAll("img[data-where]")) {
    image.addEventListener("pointermove", (event) => showTip(image, event));
    image.addEventListener("pointerdown", (event) => showTip(image, event));
    image.addEventListener("pointerleave", () => (tip.hidden = true));
  }

  // A legend's entry highlights its cells in every picture that knows them: all others fade.
  let highlighted = null;

  const highlight = (image, entry) => {
    const holder = image.closest(".picture");
    for (const old of holder.querySelectorAll("canvas")) old.remove();
    if (!entry) return;
    const column = pointData(image.dataset.what).find(({ name }) => name === entry.column);
    if (!column) return;
    const { x, y } = pointData(image.dataset.where);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pen = canvas.getContext("2d");
    pen.fillStyle = "rgba(255, 255, 255, 0.75)";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = "#D55E00";
    const { values, levels } = column;
    for (let i = 0; i < x.length; i++) {
      if ((levels && values[i] >= 0 ? levels[values[i]] : values[i]) !== entry.name) continue;
      pen.beginPath();
      pen.arc((x[i] / 1e4) * canvas.width, (y[i] / 1e4) * canvas.height, canvas.width / 180, 0, 2 * Math.PI);
      pen.fill();
    }
    holder.append(canvas);
  };

  const toggle = (entry) => {
    const same = highlighted && highlighted.column === entry.column && highlighted.name === entry.name;
    highlighted = same ? null : entry;
    for (const image of document.querySelectorAll("img[data-where]")) highlight(image, highlighted);
    for (const button of document.querySelectorAll(".picture button")) {
      const { column, name } = button.dataset;
      const isOn = highlighted && column === highlighted.column && name === highlighted.name;
      button.setAttribute("aria-pressed", Boolean(isOn));
    }
  };

  for (const image of document.querySelectorAll("img[data-legend]")) {
    for (const { column, name, box } of pointData(image.dataset.legend)) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = `Show only: ${name}`;
      button.setAttribute("aria-label", `Show only the cells with ${column} ${name}`);
      button.setAttribute("aria-pressed", "false");
      [button.dataset.column, button.dataset.name] = [column, name];
      ["left", "top", "width", "height"].forEach((side, i) => (button.style[side] = `${box[i] / 100}%`));
      button.addEventListener("click", () => toggle({ column, name }));
      image.closest(".picture").append(button);
    }
  }
})();
