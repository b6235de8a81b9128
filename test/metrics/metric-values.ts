/** Reads single values from a page of metrics in the text format of Prometheus. The tests of metrics use it. */

/** The value of one series; `undefined` if the page does not have it. The label `queue`, which every series has, does not count. */
export function metricValue(
  page: string,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  for (const line of page.split('\n')) {
    const [, found, inner = '', value] = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (found !== name) continue;
    const has = Object.fromEntries([...inner.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key, text]));
    delete has.queue;
    const isSame = Object.keys(has).length === Object.keys(labels).length;
    if (isSame && Object.entries(labels).every(([key, text]) => has[key] === text)) return Number(value);
  }
  return undefined;
}
