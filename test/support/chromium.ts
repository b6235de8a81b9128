import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findProgram } from '../../dev/local-programs.ts';
import { removeTreeSync } from '../../src/system/remove-tree.ts';
import { endChild, removeWithProcess, startChild } from './child.ts';

/** A real Chromium without a window, by its DevTools protocol. What a page logs, loads and violates is kept for the test. */

const PROGRAMS = ['chromium', 'chromium-browser', 'google-chrome'];

export const chromium: string | undefined = findProgram(...PROGRAMS);

/** Milliseconds. A deadline that only ends a hang. */
const LIMIT = 60_000;

export interface PageOptions {
  readonly width?: number;
  readonly height?: number;
  readonly dark?: boolean;
  readonly script?: boolean;
}

interface Message {
  readonly id?: number;
  readonly sessionId?: string;
  readonly method?: string;
  readonly params?: Record<string, unknown>;
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

export class Browser {
  readonly #socket: WebSocket;
  readonly #end: () => Promise<void>;
  readonly #answers = new Map<number, (message: Message) => void>();
  readonly #pages = new Map<string, Page>();
  #last = 0;

  private constructor(socket: WebSocket, end: () => Promise<void>) {
    this.#socket = socket;
    this.#end = end;
    socket.addEventListener('message', ({ data }) => {
      const message: Message = JSON.parse(String(data));
      if (message.id !== undefined) this.#answers.get(message.id)?.(message);
      else if (message.sessionId !== undefined) this.#pages.get(message.sessionId)?.record(message);
    });
  }

  /** @param program the path of Chromium */
  static async start(program: string): Promise<Browser> {
    const folder = mkdtempSync(join(tmpdir(), 'unpackd-chromium-'));
    removeWithProcess(folder);
    const flags = [
      ...['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'],
      ...['--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-extensions'],
      ...['--remote-debugging-port=0', `--user-data-dir=${folder}`, 'about:blank'],
    ];
    const child = startChild(program, flags, { stdio: ['ignore', 'ignore', 'pipe'] });
    const address = await new Promise<string>((resolve, reject) => {
      let text = '';
      child.stderr?.on('data', (chunk: Buffer) => {
        text += chunk.toString();
        const url = /DevTools listening on (ws:\S+)/.exec(text)?.[1];
        if (url !== undefined) resolve(url);
      });
      child.once('exit', () => reject(new Error(`Chromium ended: ${text}`)));
    });
    const socket = new WebSocket(address);
    await once(socket, 'open');
    return new Browser(socket, async () => {
      socket.close();
      await endChild(child);
      removeTreeSync(folder);
    });
  }

  /** @throws Error with the message of the browser */
  async call(method: string, params: object = {}, sessionId?: string): Promise<Record<string, unknown>> {
    this.#last += 1;
    const id = this.#last;
    const answer = new Promise<Message>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${method}: no answer in ${LIMIT} ms`)), LIMIT);
      this.#answers.set(id, (message) => {
        clearTimeout(timer);
        this.#answers.delete(id);
        resolve(message);
      });
    });
    this.#socket.send(JSON.stringify({ id, method, params, ...(sessionId === undefined ? {} : { sessionId }) }));
    const { result, error } = await answer;
    if (error !== undefined) throw new Error(`${method}: ${error.message}`);
    return result ?? {};
  }

  async page({ width = 1280, height = 900, dark = false, script = true }: PageOptions = {}): Promise<Page> {
    const { targetId } = await this.call('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.call('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page((method, params) => this.call(method, params, String(sessionId)));
    this.#pages.set(String(sessionId), page);
    for (const domain of ['Page', 'Runtime', 'Network', 'Log', 'Audits']) await page.call(`${domain}.enable`);
    const mobile = width < 600;
    await page.call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile });
    await page.call('Emulation.setEmulatedMedia', {
      features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }],
    });
    if (!script) await page.call('Emulation.setScriptExecutionDisabled', { value: true });
    return page;
  }

  close(): Promise<void> {
    return this.#end();
  }
}

export class Page {
  readonly call: (method: string, params?: object) => Promise<Record<string, unknown>>;
  /** Errors of the console, exceptions, and what the browser itself reports, such as a violation of the policy. */
  readonly complaints: string[] = [];
  /** The URLs of all requests. */
  readonly requests: string[] = [];
  #loaded = Promise.withResolvers<void>();

  constructor(call: Page['call']) {
    this.call = call;
  }

  record({ method, params = {} }: Message): void {
    const text = JSON.stringify(params);
    if (method === 'Page.loadEventFired') this.#loaded.resolve();
    else if (method === 'Network.requestWillBeSent') {
      const { request } = params as { request: { url: string } }; // `as`: the protocol says so
      this.requests.push(request.url);
    } else if (method === 'Runtime.exceptionThrown' || method === 'Audits.issueAdded') this.complaints.push(text);
    else if (method === 'Runtime.consoleAPICalled' && /"type":"(error|warning|assert)"/.test(text)) {
      this.complaints.push(text);
    } else if (method === 'Log.entryAdded' && /"level":"(error|warning)"/.test(text)) this.complaints.push(text);
  }

  /** Opens a page, and waits until it is loaded. */
  async open(url: string): Promise<void> {
    await this.loads(() => this.call('Page.navigate', { url }));
  }

  /** Does something that loads another page, and waits until that one is loaded. */
  async loads(cause: () => Promise<unknown>): Promise<void> {
    this.#loaded = Promise.withResolvers();
    await cause();
    await this.#loaded.promise;
  }

  /** The value of an expression in the page. A promise is awaited. @throws Error with its exception */
  async evaluate<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = (await this.call('Runtime.evaluate', {
      expression,
      awaitPromise: true,
      returnByValue: true,
    })) as { result: { value: T }; exceptionDetails?: { text: string } }; // `as`: the protocol says so
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    return result.value;
  }

  /** Clicks in the middle of an element, as a person does. */
  async click(selector: string): Promise<void> {
    const { x, y } = await this.evaluate<{ x: number; y: number }>(
      `(() => { const e = document.querySelector(${JSON.stringify(selector)}); e.scrollIntoView({ block: 'center' });
        const r = e.getBoundingClientRect(); return { x: r.x + r.width / 2, y: r.y + r.height / 2 }; })()`,
    );
    const at = { x, y, button: 'left', clickCount: 1 };
    await this.call('Input.dispatchMouseEvent', { type: 'mousePressed', ...at });
    await this.call('Input.dispatchMouseEvent', { type: 'mouseReleased', ...at });
  }

  /** A picture of the whole page. */
  async screenshot(): Promise<Buffer> {
    const { data } = await this.call('Page.captureScreenshot', { format: 'png', captureBeyondViewport: true });
    return Buffer.from(String(data), 'base64');
  }
}
