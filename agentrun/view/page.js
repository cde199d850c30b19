// The script of an exported page, which is complete without it: this adds keys, search, lenses,
// copies and whole values. It loads nothing.
(() => {
  "use strict";
  const root = document.querySelector(".ar-root");
  // A number that JavaScript would write otherwise, such as 1.0, stays as it was recorded.
  const number = (_, value, context) =>
    typeof value === "number" && JSON.rawJSON && String(value) !== context.source
      ? JSON.rawJSON(context.source)
      : value;
  const data = (id) => JSON.parse(document.getElementById(id).textContent, number);
  const all = (selector, within = root) => [...within.querySelectorAll(selector)];
  const KINDS = ".ar-user,.ar-assistant,.ar-other,.ar-step,.ar-error,.ar-doubt,.ar-band";
  const ABSENT = "not in this page";
  let items = [];
  const collect = () => {
    items = all(KINDS).filter((item) => !item.parentElement.closest(KINDS));
    for (const cut of all("[data-cut]:not([data-offered])")) offer(cut);
    for (const call of all(".ar-of-model>[id]:not([data-offered])")) offerCopies(call);
  };
  const LENSES = {
    all: () => true,
    user: (item) => item.matches(".ar-user"),
    model: (item) => item.matches(".ar-assistant,.ar-of-model"),
    tools: (item) => item.matches(".ar-of-tool"),
    errors: (item) => item.matches(".ar-error"),
    doubts: (item) => item.matches(".ar-doubt"),
    resumes: (item) => item.matches(".ar-band") || item.querySelector(".ar-band") !== null,
  };
  // The parts of a very long run are text in `noscript` elements until they are needed.
  const unread = () => all("noscript");
  const fill = (kept) => {
    const box = document.createElement("template");
    box.innerHTML = kept.textContent;
    kept.replaceWith(box.content);
  };
  const fillAll = (wanted = () => true) => {
    const chosen = unread().filter((kept) => wanted(kept.textContent));
    chosen.forEach(fill);
    if (chosen.length) collect();
  };
  root.addEventListener("toggle", (event) => {
    const kept = event.target.open && event.target.querySelector(":scope>noscript");
    if (!kept) return;
    fill(kept);
    collect();
    choose();
  }, true);
  const SIGNS = {
    user: /class="ar-user"/g,
    model: /class="ar-assistant"|ar-of-model"/g,
    tools: /ar-of-tool"/g,
    errors: /class="ar-error /g,
    doubts: /class="ar-doubt /g,
    resumes: /class="ar-band"/g,
    all: /class="ar-(user|assistant|other|step|error|doubt)[ "]/g,
  };
  const size = (name) =>
    unread().reduce((sum, kept) => sum + (kept.textContent.match(SIGNS[name]) ?? []).length, 0) +
    items.filter(LENSES[name]).length;
  let lens = "all";
  let place = -1;

  // Control characters and those that reorder text are shown and not obeyed.
  const HIDDEN =
    /[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff\ud800-\udfff\u{e0000}-\u{e0fff}]/gu;
  const code = (char) => "\\u" + char.codePointAt(0).toString(16).padStart(4, "0");
  const visible = (text) =>
    text
      .replaceAll("\r\n", "\n")
      .replaceAll("\t", "    ")
      .replace(HIDDEN, code);

  const make = (tag, text, act) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (act) made.addEventListener("click", act);
    return made;
  };

  // ---- search and lenses
  const bar = make("div", "");
  bar.className = "ar-bar";
  bar.setAttribute("role", "toolbar");
  bar.setAttribute("aria-label", "tools of this page");
  const search = make("input", "");
  search.type = "search";
  search.placeholder = "search (/)";
  search.setAttribute("aria-label", "search in this run");
  const count = make("span", "");
  count.setAttribute("role", "status");

  const choose = () => {
    const words = search.value.trim().toLowerCase();
    const box = make("p", words);
    if (words) fillAll((text) => text.toLowerCase().includes(box.innerHTML));
    else if (lens !== "all") fillAll((text) => text.search(SIGNS[lens]) >= 0);
    let shown = 0;
    for (const item of items) {
      const found = !words || item.textContent.toLowerCase().includes(words);
      item.hidden = !(found && LENSES[lens](item));
      shown += item.hidden ? 0 : 1;
      if (words && !item.hidden) reveal(item);
    }
    const full = new Set(items.filter((item) => !item.hidden));
    for (const block of all(".ar-turn,.ar-page"))
      block.hidden = !all(KINDS, block).some((item) => full.has(item)) && lens + words !== "all";
    count.textContent = words || lens !== "all" ? `${shown} of ${size("all")}` : "";
    for (const button of all("button[data-lens]", bar))
      button.setAttribute("aria-pressed", String(button.dataset.lens === lens));
  };
  const reveal = (item) => {
    for (let at = item; at && at !== root; at = at.parentElement)
      if (at.localName === "details") at.open = true;
  };
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(choose, 150);
  });
  bar.append(search, count);
  const addLenses = () => {
    for (const name of Object.keys(LENSES)) {
      const number = size(name);
      if (!number) continue;
      const button = make("button", `${name} ${number}`, () => {
        lens = name;
        choose();
      });
      button.dataset.lens = name;
      button.setAttribute("aria-pressed", String(name === lens));
      bar.append(button);
    }
  };

  // ---- folds
  const folds = () => all("details");
  const expand = () => {
    fillAll();
    const closed = folds().filter((fold) => !fold.open && !fold.closest("[hidden]"));
    for (const fold of closed.length ? closed : items) if ("open" in fold) fold.open = !!closed.length;
  };
  let printed = [];
  addEventListener("beforeprint", () => {
    fillAll();
    printed = folds().filter((fold) => !fold.open);
    for (const fold of printed) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of printed) fold.open = false;
  });

  // ---- copies
  let known;
  const journal = () => (known ??= data("agentrun-journal"));
  const { forms, keys, messages, notes, parts } = data("agentrun-copies");
  // A request refers to parts of earlier events. The page says where in the journal these stand.
  const part = ([row, ...path]) => {
    const found = path.reduce((value, key) => value[key], journal()[row]);
    return journal()[row].shared && path[0] === "input" ? build(found) : found;
  };
  const build = (value) => {
    if (Array.isArray(value)) return value.map(build);
    if (!value || typeof value !== "object" || JSON.isRawJSON?.(value)) return value;
    if (value.$ref) return part(parts[value.$ref]);
    if (value.$prefix) {
      const before = [];
      for (let name = value.$prefix, place; name; ) {
        [name, ...place] = parts[name];
        before.push(part(place));
      }
      return [...before.reverse(), ...value.then.map(build)];
    }
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [key.replace(/^\$/, ""), build(item)]),
    );
  };
  const ascii = (text) => text.replace(/[^ -~]/g, code);
  const callOf = (step, form) => {
    const events = journal().filter((event) => event.step === step && event.input);
    const { input, shared } = events.pop();
    const { api, url, body } = shared ? build(input) : input;
    const sent = ascii(JSON.stringify(body));
    const [header, scheme, key] = keys[api] ?? keys[""];
    const values = { header, scheme, key, body: sent, text: JSON.stringify(sent) };
    values.url = ascii(url).replace(/['"\\]/g, (char) => "%" + char.charCodeAt(0).toString(16));
    const missing = [notes.always, ...new Set(sent.match(/\[masked: [^\]]*]/g))];
    if (body.parts || body.content_type) missing.push(notes.form);
    if (journal().some((event) => event.escaped)) missing.push(notes.escaped);
    return (
      missing.map((note) => `# not in this copy: ${note}\n`).join("") +
      forms[form].replace(/\{(\w+)\}/g, (_, name) => values[name])
    );
  };
  const offerCopies = (call) => {
    call.dataset.offered = "";
    for (const form of ["Python", "curl"])
      call.prepend(copyButton(form, () => callOf(+call.id.slice(1), form)));
  };
  const copyButton = (name, text, note = "") => {
    const button = make("button", `copy ${name}`, () => {
      try {
        copy(text(), note);
      } catch {
        button.textContent = ABSENT;
      }
    });
    button.dataset.copy = name;
    return button;
  };
  const copy = async (text, note) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const box = make("textarea", "");
      box.value = text;
      document.body.append(box);
      box.select();
      // This works where the page has no clipboard of its own.
      document.execCommand("copy");
      box.remove();
    }
    count.textContent = "copied" + note;
  };
  const addCopies = () => {
    bar.append(copyButton("JSON", () => JSON.stringify(journal(), null, 2)));
    const text = () => JSON.stringify(messages, null, 2);
    if (messages.length) bar.append(copyButton("OpenAI messages", text, notes.messages));
  };

  // ---- whole values, from the journal in this page
  const strings = function* (value) {
    if (typeof value === "string") yield value;
    else if (value && typeof value === "object") for (const part of Object.values(value)) yield* strings(part);
  };
  const PLACES = { arguments: ["input", "args"], result: ["output", "result"], reply: ["output", "body"] };
  const find = (step, part, size) => {
    const events = journal().filter((event) => event.step === step);
    const of = (name, field) =>
      events.map((event) => event[name]?.[field]).filter((value) => value !== undefined).pop();
    const value = PLACES[part] && of(...PLACES[part]);
    if (value !== undefined && typeof value !== "string") return JSON.stringify(value, null, 2);
    for (const where of [events, journal()])
      for (const text of strings(where)) if (text.length === size) return text;
    return undefined;
  };
  const offer = (cut) => {
    const [step, part, size] = cut.dataset.cut.split(" ");
    cut.dataset.offered = "";
    const button = make("button", "show all", () => {
      const text = find(Number(step), part, Number(size));
      if (text === undefined) button.textContent = ABSENT;
      else {
        cut.textContent = visible(text);
        button.remove();
      }
    });
    cut.after(button);
  };

  // ---- keys
  const go = (by) => {
    const shown = items.filter((item) => !item.hidden);
    const now = shown.indexOf(items[place]);
    const after = all(".ar-page>noscript")[0];
    if (by > 0 && now === shown.length - 1 && after) {
      after.parentElement.open = true;
      fill(after);
      collect();
      return go(by);
    }
    const next = shown[Math.min(Math.max(now + by, 0), shown.length - 1)];
    if (!next) return;
    place = items.indexOf(next);
    reveal(next.parentElement);
    const head = next.querySelector("summary") ?? next;
    head.tabIndex = 0;
    next.scrollIntoView({ block: "center" });
    head.focus({ preventScroll: true });
  };
  const KEYS = { j: () => go(1), k: () => go(-1), e: expand, "/": () => search.focus() };
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input,textarea");
    if (typing && event.key === "Escape") search.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  // ---- the place in the address
  const visit = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    if (!/^s\d+$/.test(id) || document.getElementById(id)) return;
    fillAll((text) => text.includes(`id="${id}"`));
    const found = document.getElementById(id);
    if (!found) return;
    reveal(found);
    found.scrollIntoView();
  };
  addEventListener("hashchange", visit);

  collect();
  addLenses();
  bar.append(make("button", "expand all (e)", expand));
  addCopies();
  root.prepend(bar);
  visit();
})();
