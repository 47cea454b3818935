// The page's own nodes. Nothing here makes markup of a text.

/** The element with this id. */
export const at = (id) => document.getElementById(id);

/** Set an element's text, if it is another one. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Make an element; `given` are properties, or attributes where a name has a dash. */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given))
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  element.append(...children);
  return element;
}

/** Give a select these options ([value, text] or {label, options}); keeps what is chosen. */
export function options(select, wanted) {
  const text = JSON.stringify(wanted);
  if (select.dataset.options === text) return;
  const chosen = select.value;
  const option = ([value, shown]) => make("option", { value, textContent: shown });
  select.replaceChildren(...wanted.map((each) => Array.isArray(each)
    ? option(each) : make("optgroup", { label: each.label }, ...each.options.map(option))));
  select.dataset.options = text;
  if ([...select.options].some((each) => each.value === chosen)) select.value = chosen;
}

/** Draw a line of values into an svg with a polygon and a polyline, 120 wide and `high`. */
export function draw(svg, values, high) {
  const most = Math.max(...values, 1e-9);
  const step = 120 / Math.max(1, values.length - 1);
  const points = values.map((value, n) =>
    `${(n * step).toFixed(1)},${(high - 1 - (value / most) * (high - 2)).toFixed(1)}`).join(" ");
  svg.lastElementChild.setAttribute("points", points);
  svg.firstElementChild.setAttribute("points", `0,${high} ${points} 120,${high}`);
}

/** Call it in the next frame, once, however often it is asked for. */
export function framed(call) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => { waits = false; call(); });
  };
}
