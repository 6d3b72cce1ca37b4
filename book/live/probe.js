// The page at /probe: a form for the arguments of stream-probe, and its findings as they arrive.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const [form, kind, url, status, list] = ["form", "kind", "url", "status", "findings"].map(byId);

/** Which commands an argument is for: its help begins with them, or it is for all. */
function kinds(help) {
  const prefix = /^((?:sse|ws|llm)(?: and (?:sse|ws|llm))*): /.exec(help);
  return prefix ? prefix[1].split(" and ") : ["sse", "ws", "llm"];
}

const options = data.arguments.map((argument) => {
  const row = make("div", "option");
  const field = make(argument.choices.length > 0 ? "select" : "input");
  field.id = `option-${argument.name}`;
  if (argument.choices.length > 0) {
    for (const choice of ["", ...argument.choices]) field.append(new Option(choice, choice));
  } else if (argument.value === null) {
    field.type = "checkbox";
  } else {
    field.placeholder = argument.default ?? argument.value ?? "";
  }
  const label = make("label", "", `--${argument.name}`);
  label.htmlFor = field.id;
  row.append(label, field, make("small", "", argument.help));
  byId("options").append(row);
  return { ...argument, row, field, kinds: kinds(argument.help) };
});

/** The arguments that are filled in, as names and values. */
function given() {
  const shown = options.filter((option) => option.kinds.includes(kind.value));
  const filled = shown.filter(({ field }) => (field.type === "checkbox" ? field.checked : field.value !== ""));
  return filled.map(({ name, field }) => [name, field.type === "checkbox" ? null : field.value]);
}

function refresh() {
  for (const option of options) option.row.hidden = !option.kinds.includes(kind.value);
  const quote = (text) => (/^[\w./:@=,*-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
  const words = given().map(([name, value]) => (value === null ? `--${name}` : `--${name} ${quote(value)}`));
  byId("command").textContent = ["stream-probe", kind.value, quote(url.value || "URL"), ...words].join(" ");
}
form.addEventListener("input", refresh);
refresh();

/** The groups of findings; a filter shows or hides each. */
const GROUPS = ["failed", "warning", "passed", "could not tell"];
const filters = new Map(
  GROUPS.map((group) => {
    const box = Object.assign(make("input"), { type: "checkbox", checked: true });
    const label = make("label");
    const count = make("span", "", "0");
    label.append(box, ` ${group} (`, count, ")");
    byId("filters").append(label);
    box.addEventListener("change", () => {
      for (const item of list.children) item.hidden = !filters.get(item.dataset.group).box.checked;
    });
    return [group, { box, count }];
  }),
);

function groupOf({ verdict, level }) {
  return verdict === "failed" && level === "should" ? "warning" : verdict;
}

/** Adds a finding; what failed comes first. Text of the service is never read as HTML. */
function show(finding) {
  const group = groupOf(finding);
  const item = make("li", group.replaceAll(" ", "-"));
  item.dataset.group = group;
  item.hidden = !filters.get(group).box.checked;
  const chapter = make("a", "", finding.id);
  chapter.href = `/${finding.chapter}.html`;
  chapter.target = "_blank";
  item.append(make("span", "word", group), " ", chapter, ` ${finding.title}`, make("br"), finding.evidence);
  const rank = GROUPS.indexOf(group);
  const next = [...list.children].find((other) => GROUPS.indexOf(other.dataset.group) > rank);
  list.insertBefore(item, next ?? null);
  const { count } = filters.get(group);
  count.textContent = String(Number(count.textContent) + 1);
}

let source;
let run;

async function post(path, body) {
  const headers = { "content-type": "application/json", "x-probe-token": data.token };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error((await response.text()) || `status ${response.status}`);
  return response;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  end();
  list.replaceChildren();
  byId("downloads").hidden = true;
  for (const { count } of filters.values()) count.textContent = "0";
  status.textContent = "Starting";
  try {
    const body = { kind: kind.value, url: url.value, arguments: given() };
    run = `/probe/runs/${(await (await post("/probe/runs", body)).json()).id}`;
  } catch (error) {
    status.textContent = `Not started: ${error.message}`;
    return;
  }
  byId("stop").hidden = false;
  watch(run);
});
byId("stop").addEventListener("click", () => post(`${run}/stop`, {}));

function watch(path) {
  source = new EventSource(`${path}/events`);
  source.onopen = () => {
    status.textContent = "Running";
  };
  source.onerror = () => {
    if (source?.readyState !== EventSource.CLOSED) status.textContent = "Lost: the browser reconnects";
    else finish("Ended: this program no longer knows the run");
  };
  source.addEventListener("endpoint", (event) => {
    status.textContent = `Running: ${JSON.parse(event.data).text}`;
  });
  source.addEventListener("finding", (event) => show(JSON.parse(event.data)));
  source.addEventListener("done", (event) => {
    const { summary, broken_off, missing } = JSON.parse(event.data);
    const more = missing.length > 0 ? ` To see more, give: ${missing.join(", ")}.` : "";
    finish(`${broken_off ? `Ended early: ${broken_off}. ` : ""}${summary}.${more}`);
    for (const format of ["json", "sarif"]) byId(format).href = `${path}/report.${format}`;
    byId("downloads").hidden = false;
  });
  source.addEventListener("run_failed", (event) => finish(`Failed: ${JSON.parse(event.data).message}`));
}

function finish(text) {
  status.textContent = text;
  end();
}

function end() {
  source?.close();
  source = undefined;
  byId("stop").hidden = true;
}
addEventListener("pagehide", end);

function make(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}
