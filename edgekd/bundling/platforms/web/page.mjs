// SPDX-License-Identifier: Apache-2.0
/** The page: an image or a text in, what the model answers and how long it took out; with `?selftest` the self-test. */

import { hostOf, openBundle, pixelsOf, threads } from "./edgekd-bundle.mjs";
import { prove } from "./proof.mjs";
import { numbersOf } from "./tensors.mjs";

const BUNDLE = "../";
const MOST_VALUES = 8; // of an output that has no names for its classes
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
  const { name, image, text } = model.manifest;
  if (image) await model.classify(blank(image)); // the first run takes longer than any other
  else if (text) await model.run(model.prepareText("a"));
  document.title = show("name", name).textContent;
  show("about", `${model.variant.path} · ${model.variant.precision} · ${counted(threads(), "thread")}`);
  document.documentElement.dataset.threads = threads();
  document.documentElement.dataset.ready = "yes";
  if (image) {
    show("demo");
    show("drop");
    listen((file) => answerImage(model, file));
  } else if (text) {
    show("demo");
    show("words").addEventListener("submit", (event) => {
      event.preventDefault();
      answerText(model, document.getElementById("text").value);
    });
  } else {
    fail(new Error("This model takes no image and no text. The self-test shows what it answers."));
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

function answerImage(model, file) {
  return answer(model, async () => {
    const pixels = await pixelsOf(file);
    return {
      prepare: () => model.prepare(pixels),
      what: () => `${pixels.width} × ${pixels.height} pixels`,
      showInput: () => preview(file),
    };
  }, `${file.name}: `);
}

function answerText(model, text) {
  return answer(model, () => ({
    prepare: () => model.prepareText(text),
    what: (inputs) => counted(inputs[model.manifest.text.ids].dims[1], "token"),
  }));
}

let turns = 0; // an answer to an older input than the last one is not shown

/** Show what the model answers; `read` gives how the input is prepared, and what it is. */
async function answer(model, read, whose = "") {
  const turn = ++turns;
  document.getElementById("error").hidden = true;
  document.documentElement.dataset.answered = "no";
  try {
    const { prepare, what, showInput } = await read();
    const begin = performance.now();
    const inputs = prepare();
    const prepared = performance.now();
    const outputs = await model.run(inputs);
    const end = performance.now();
    if (turn !== turns) return;
    showInput?.();
    showOutput(model, outputs);
    const ms = (from, to) => `${(to - from).toFixed(1)} ms`;
    show("time", ms(prepared, end));
    show("preparation", `${ms(begin, prepared)} before it to prepare ${what(inputs)}`);
  } catch (error) {
    if (turn !== turns) return;
    fail(new Error(`${whose}${error.message}`));
    document.getElementById("answer").hidden = true;
  }
  document.documentElement.dataset.answered = "yes";
}

/** Show the classes of an image and those that have names, or else the first output in short. */
function showOutput(model, outputs) {
  const { image, labels, outputs: described } = model.manifest;
  show("answer");
  if (image || labels.length) {
    list(model.top(outputs));
    return;
  }
  const { name } = described[0];
  const { type, dims, data } = outputs[name];
  const values = Array.from(numbersOf(type, data.slice(0, MOST_VALUES)), (value) => Number(value.toPrecision(6)));
  const more = data.length > MOST_VALUES ? ", …" : "";
  show("values", `${name}: ${type} [${dims.join(", ")}]\n${values.join(", ")}${more}`);
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
}

function fail(error) {
  show("error", error.message);
  document.documentElement.dataset.failed = "yes";
}
