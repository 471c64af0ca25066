// The page's texts: one JSON file per language, English under every key that a language lacks.

export const LANGUAGES = ["en", "de"];
let texts = {};

async function read(language) {
  const answer = await fetch(`/static/i18n/${language}.json`);
  if (!answer.ok) throw new Error(`texts of ${language}: ${answer.status}`);
  return answer.json();
}

/** What was chosen here before, else the first language of the browser that there is, else English. */
export function chosenLanguage() {
  const kept = localStorage.getItem("shotseg.language");
  const wanted = [kept, ...navigator.languages.map((language) => language.split("-")[0])];
  return wanted.find((language) => LANGUAGES.includes(language)) ?? "en";
}

export async function loadTexts(language) {
  localStorage.setItem("shotseg.language", language);
  const [english, own] = await Promise.all([read("en"), language === "en" ? {} : read(language)]);
  texts = { ...english, ...own };
  document.documentElement.lang = language;
  applyTexts(document);
}

export function t(key, values = {}) {
  const text = texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** What the language calls a value that the server names, else the value. */
export const called = (kind, value) => texts[`${kind}.${value}`] ?? value;

export function applyTexts(root) {
  for (const node of root.querySelectorAll("[data-i18n]")) node.textContent = t(node.dataset.i18n);
  for (const node of root.querySelectorAll("[data-i18n-placeholder]")) node.placeholder = t(node.dataset.i18nPlaceholder);
  for (const node of root.querySelectorAll("[data-i18n-label]")) {
    node.setAttribute("aria-label", t(node.dataset.i18nLabel));
    if (node.matches("button, select")) node.title = t(node.dataset.i18nLabel);
  }
}
