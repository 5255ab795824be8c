"use strict";
// The page is complete without this script, which adds hiding of curves, words at points, and the choice of
// method and target for the layers.
const data = JSON.parse(document.getElementById("data").textContent);

for (const box of document.querySelectorAll("[data-toggle]")) {
  box.addEventListener("change", () => {
    for (const part of document.querySelectorAll(`.series[data-s="${box.dataset.toggle}"]`)) {
      part.classList.toggle("off", !box.checked);
    }
  });
}

const tip = document.getElementById("tip");
const near = (svg, event) => {
  // The nearest visible point within reach, so that small marks are easy to hit.
  let best = null, least = 22 * 22;
  for (const point of svg.querySelectorAll(".series:not(.off) .point")) {
    const box = point.getBoundingClientRect();
    const dx = box.x + box.width / 2 - event.clientX, dy = box.y + box.height / 2 - event.clientY;
    if (dx * dx + dy * dy < least) { least = dx * dx + dy * dy; best = point; }
  }
  return best;
};
for (const svg of document.querySelectorAll(".chart svg")) {
  svg.addEventListener("pointermove", (event) => {
    const point = near(svg, event);
    tip.hidden = !point;
    if (!point) return;
    const [curve, place] = point.dataset.p.split(" ");
    tip.replaceChildren(...data.tips[curve][place].map((line) => {
      const row = document.createElement("div");
      row.textContent = line;
      return row;
    }));
    const box = point.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = box.right + 12 + size.width > innerWidth ? box.left - 12 - size.width : box.right + 12;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, Math.min(box.top - 10, innerHeight - size.height - 4))}px`;
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
}

const slider = document.querySelector("#target input");
const choice = document.getElementById("method");

const showTarget = () => {
  const target = Number(slider.value);
  document.querySelector("#target output").textContent = data.targets[target];
  for (const cell of document.querySelectorAll(".layer")) {
    const [row, column] = cell.dataset.c.split(" ");
    const found = data.layers[row][column][target];
    const [box, text] = cell.children;
    const [share, words] = found ?? [0, ""];
    box.setAttribute("fill", `color-mix(in srgb, var(--heat1) ${share * 100}%, var(--heat0))`);
    text.setAttribute("fill", `var(--on-heat${share > data.turn ? 1 : 0})`);
    text.textContent = words;
  }
};

const showWeights = () => {
  const method = Number(choice.value);
  const layers = data.histograms[method][Number(slider.value)];
  const [width, height, base] = data.area;
  for (const part of document.querySelectorAll(".after")) {
    const bars = layers ? layers[Number(part.dataset.h)] : "";
    const step = width / Math.max(1, bars.length);
    let path = `M0 ${base}`;
    for (let i = 0; i < bars.length; i++) {
      const top = base - height * (bars.charCodeAt(i) - 48) / 63;
      path += `L${i * step} ${top}L${(i + 1) * step} ${top}`;
    }
    part.firstElementChild.setAttribute("d", `${path}L${width} ${base}Z`);
    part.firstElementChild.setAttribute("fill", `var(--s${data.colours[method]})`);
  }
};

if (slider) {
  slider.addEventListener("input", () => { showTarget(); if (choice) showWeights(); });
}
if (choice) choice.addEventListener("change", showWeights);
