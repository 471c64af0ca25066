// Small helpers to build elements. Text is only ever set as text, so no name or error can become HTML.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const written = {}; // what writes numbers, which takes long to make: one for each language and number of digits

/** As the page's language writes it. */
export function percent(part, digits = 0) {
  const { lang } = document.documentElement;
  const places = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  written[lang + digits] ??= new Intl.NumberFormat(lang, places);
  return `${written[lang + digits].format(100 * part)} %`;
}

/** Acts once calls pause for `wait` ms, and at the latest `longest` ms after the first: a stream of calls never starves it. */
export function debounce(wait, action, longest = Infinity) {
  let timer = null;
  let first = 0;
  return (...values) => {
    const now = performance.now();
    if (timer === null) first = now;
    clearTimeout(timer);
    const act = () => {
      timer = null;
      action(...values);
    };
    timer = setTimeout(act, Math.max(0, Math.min(wait, first + longest - now)));
  };
}
