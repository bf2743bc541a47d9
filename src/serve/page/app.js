// The page with JavaScript: both answers stream in beside each other. Without it the form is sent as it is.
"use strict";

const form = document.getElementById("ask");
const title = document.getElementById("title");
const submit = document.getElementById("submit");
const answers = document.getElementById("answers");
const error = document.getElementById("error");
const token = document.getElementById("token");
let running = null;

function showError(text) {
  error.textContent = text;
  error.hidden = text === "";
}

function busy(on) {
  submit.disabled = on;
  answers.setAttribute("aria-busy", String(on));
}

function take(event) {
  if (event.error) return showError(event.error.message);
  const place = document.getElementById(event.who);
  if (event.text) place.textContent += event.text;
  if (event.end) place.classList.add("done");
}

async function ask(words) {
  if (running) running.abort();
  running = new AbortController();
  const mine = running;
  showError("");
  for (const who of ["tuned", "base"]) {
    const place = document.getElementById(who);
    place.textContent = "";
    place.classList.remove("done");
  }
  answers.hidden = false;
  busy(true);
  try {
    const headers = { "Content-Type": "application/json" };
    if (token) headers.Authorization = "Bearer " + token.value;
    const body = JSON.stringify({ title: words });
    const response = await fetch("review", { method: "POST", headers, body, signal: mine.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let whole = false;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") whole = true;
        else take(JSON.parse(data));
      }
    }
    if (!whole) throw new Error("the connection ended before the answer did");
  } catch (problem) {
    if (mine.signal.aborted) return; // another question took its place
    showError(problem instanceof TypeError ? "the server does not answer" : problem.message);
    if (document.getElementById("tuned").textContent === "") answers.hidden = true;
  }
  if (mine === running) {
    running = null;
    busy(false);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (title.value.trim() !== "") ask(title.value);
});

for (const example of document.querySelectorAll("button.example")) {
  example.addEventListener("click", (event) => {
    event.preventDefault();
    title.value = example.value;
    if (form.reportValidity()) ask(title.value);
  });
}
