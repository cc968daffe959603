// SPDX-License-Identifier: Apache-2.0
/** The page: an image in, its classes and how long they took out; with `?selftest` the self-test. */

import { hostOf, openBundle, pixelsOf, threads } from "./edgekd-bundle.mjs";
import { prove } from "./proof.mjs";

const BUNDLE = "../";
const show = (id, text) => {
  const element = document.getElementById(id);
  if (text !== undefined) element.textContent = text;
  element.hidden = false;
  return element;
};
const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

const asked = new URLSearchParams(location.search);
const options = asked.has("key") ? { publicKey: asked.get("key") } : {};

if (asked.has("selftest")) {
  await selfTest();
} else {
  await demo();
}

async function selfTest() {
  show("about", "Is this bundle whole, and does its model answer here as it did where it was measured?");
  show("selftest");
  show("back");
  document.getElementById("test").hidden = true;
  const lines = document.getElementById("lines");
  const passed = await prove(hostOf(BUNDLE), (line) => lines.append(`${line}\n`), options);
  const verdict = passed ? "PASS" : "FAIL";
  show("verdict", verdict);
  document.title = verdict;
  document.documentElement.dataset.selftest = verdict;
}

async function demo() {
  let model;
  try {
    model = await openBundle(BUNDLE, options);
  } catch (error) {
    show("about", "The model was not opened.");
    fail(error);
    return;
  }
  const { name, image } = model.manifest;
  if (image) await model.classify(blank(image)); // the first run takes longer than any other
  document.title = show("name", name).textContent;
  show("about", `${model.variant.path} · ${model.variant.precision} · ${counted(threads(), "thread")}`);
  document.documentElement.dataset.threads = threads();
  document.documentElement.dataset.ready = "yes";
  if (image) {
    show("demo");
    listen((file) => answer(model, file));
  } else {
    fail(new Error("This model takes no image. The self-test shows what it answers."));
  }
}

function blank({ width, height }) {
  return { data: new Uint8Array(3 * width * height), width, height };
}

/** Call `take` with each image that is dropped, chosen or pasted. */
function listen(take) {
  const drop = document.getElementById("drop");
  const input = document.getElementById("file");
  const over = (event) => {
    event.preventDefault();
    drop.classList.toggle("over", event.type === "dragover");
  };
  for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, over);
  document.addEventListener("drop", (event) => takeFirst(event.dataTransfer.files));
  document.addEventListener("paste", (event) => takeFirst(event.clipboardData.files));
  input.addEventListener("change", () => {
    takeFirst(input.files);
    input.value = "";
  });
  const takeFirst = (files) => files.length && take(files[0]);
}

let turns = 0; // an answer to an older image than the last one is not shown

async function answer(model, file) {
  const turn = ++turns;
  document.getElementById("error").hidden = true;
  document.documentElement.dataset.answered = "no";
  try {
    const pixels = await pixelsOf(file);
    const begin = performance.now();
    const inputs = model.prepare(pixels);
    const prepared = performance.now();
    const outputs = await model.run(inputs);
    const end = performance.now();
    if (turn !== turns) return;
    preview(file);
    list(model.top(outputs));
    const ms = (from, to) => `${(to - from).toFixed(1)} ms`;
    show("time", ms(prepared, end));
    show("preparation", `${ms(begin, prepared)} before it to prepare ${pixels.width} × ${pixels.height} pixels`);
  } catch (error) {
    if (turn !== turns) return;
    fail(new Error(`${file.name}: ${error.message}`));
    document.getElementById("answer").hidden = true;
  }
  document.documentElement.dataset.answered = "yes";
}

function preview(file) {
  const image = show("preview");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.alt = file.name;
}

function list(best) {
  const items = best.map(({ label, score }) => {
    const item = document.createElement("li");
    const percent = `${(100 * score).toFixed(1)} %`;
    for (const [name, text] of [["label", label], ["score", percent]]) {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      item.append(part);
    }
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.setProperty("--share", score);
    item.append(bar);
    return item;
  });
  document.getElementById("best").replaceChildren(...items);
  show("answer");
}

function fail(error) {
  show("error", error.message);
  document.documentElement.dataset.failed = "yes";
}
