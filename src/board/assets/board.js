/**
 * Keeps a page current: fetches it again every few seconds and changes only what differs, so that nothing flickers, open
 * details stay open and the focus stays where it is. Shows times in the zone of this browser. The pages work without it.
 */

const interval = Number(document.body.dataset.refresh);
const live = document.querySelector('#live');
const outage = document.querySelector('#outage');
const main = document.querySelector('main');
let paused = false;
let lastAnswer = new Date();

const clock = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hour12: false,
});
/** With the zone of the times on the page. */
const zoned = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hour12: false,
  timeZoneName: 'short',
});
const day = new Intl.DateTimeFormat(undefined, {
  day: 'numeric',
  month: 'short',
  hour: '2-digit',
  minute: '2-digit',
  hour12: false,
});

/** Times of today as a time, others with their day. The title keeps UTC. */
function localTimes(root) {
  for (const element of root.querySelectorAll('time[data-clock]')) {
    const date = new Date(element.dateTime);
    const isToday = date.toDateString() === new Date().toDateString();
    element.textContent = (isToday ? clock : day).format(date);
  }
}

/** Makes `now` the same as `next`, and touches only what differs. */
function morph(now, next) {
  if (now.isEqualNode(next)) return;
  for (const { name } of [...now.attributes]) {
    if (!next.hasAttribute(name) && !isOfTheUser(now, name)) now.removeAttribute(name);
  }
  for (const { name, value } of [...next.attributes]) {
    if (now.getAttribute(name) !== value && !isOfTheUser(now, name)) now.setAttribute(name, value);
  }
  const keyed = new Map(
    [...now.children].filter((child) => child.dataset?.key).map((child) => [child.dataset.key, child]),
  );
  let place = now.firstChild;
  for (const wanted of [...next.childNodes]) {
    const known = keyed.get(wanted.dataset?.key) ?? (place?.dataset?.key ? undefined : place);
    if (known && isSameKind(known, wanted)) {
      if (known !== place) now.insertBefore(known, place);
      else place = place.nextSibling;
      if (known.nodeType === Node.ELEMENT_NODE) morph(known, wanted);
      else if (known.data !== wanted.data) known.data = wanted.data;
    } else now.insertBefore(wanted, place);
  }
  while (place) {
    const rest = place.nextSibling;
    place.remove();
    place = rest;
  }
}

const isSameKind = (a, b) => a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;
const isOfTheUser = (element, name) => element.nodeName === 'DETAILS' && name === 'open';

/** Somebody who marks a digest to copy it must not lose the mark. */
function isSelecting() {
  const selection = getSelection();
  return selection !== null && !selection.isCollapsed && main.contains(selection.anchorNode);
}

async function refresh() {
  if (paused || document.hidden || isSelecting()) return;
  try {
    const answer = await fetch(location.href, {
      headers: { accept: 'text/html' },
      signal: AbortSignal.timeout(20_000),
    });
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    // the page of a job that was removed is an answer, too
    if (!answer.ok && answer.status !== 404)
      throw new Error(page.querySelector('main strong')?.textContent ?? `The board answered with ${answer.status}.`);
    const next = page.querySelector('main');
    localTimes(next);
    morph(main, next);
    document.title = page.title;
    lastAnswer = new Date();
    shows('');
  } catch (error) {
    const why =
      error instanceof TypeError || error.name === 'TimeoutError' ? 'The board does not answer.' : error.message;
    shows(`${why} What you see is from ${zoned.format(lastAnswer)}.`);
  }
}

function shows(problem) {
  document.documentElement.classList.toggle('stale', problem !== '');
  outage.hidden = problem === '';
  if (outage.textContent !== problem) outage.textContent = problem;
  live.firstChild.data = paused ? 'paused' : problem !== '' ? 'not live' : `live, ${zoned.format(lastAnswer)}`;
}

function addPause() {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Pause';
  button.addEventListener('click', () => {
    paused = !paused;
    button.textContent = paused ? 'Continue' : 'Pause';
    shows('');
    if (!paused) refresh();
  });
  live.append('', button);
}

localTimes(document);
if (interval > 0) {
  addPause();
  shows('');
  const next = () => setTimeout(() => refresh().finally(next), interval);
  next();
  document.addEventListener('visibilitychange', refresh);
}
