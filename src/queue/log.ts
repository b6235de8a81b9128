import { format } from 'node:util';
import { type DestinationStream, type Logger, pino, stdTimeFunctions } from 'pino';
import { prettyFactory } from 'pino-pretty';
import type { Config } from '../config.ts';
import { maskSecrets } from '../secrets.ts';
import { redisTrouble } from './redis-trouble.ts';

export type { Logger } from 'pino';

export type LogSettings = Pick<Config, 'UNPACK_LOG_LEVEL' | 'UNPACK_LOG_FORMAT'>;

/** Characters that wait for a log that can't be written, before lines are lost. */
const LOG_KEPT = 1 << 20;
/** Milliseconds between two writes of the log. */
const BETWEEN_WRITES = 10;

/**
 * One line an event: JSON where machines read it, coloured text on a terminal. Children carry what they are about
 * (`log.child({ job, image })`), so that a line makes sense alone.
 */
export function createLog(settings: LogSettings, destination?: DestinationStream): Logger {
  const options = {
    level: settings.UNPACK_LOG_LEVEL,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: plainError },
  };
  const format = settings.UNPACK_LOG_FORMAT;
  const onTerminal = destination === undefined && process.stdout.isTTY === true;
  const target = destination ?? standardOutput();
  const stream = { write: (line: string) => void target.write(maskSecrets(line)) };
  if (format === 'pretty' || (format === 'auto' && onTerminal)) {
    const text = prettyFactory({ colorize: onTerminal, translateTime: 'SYS:HH:MM:ss.l' });
    return pino(options, { write: (line) => void stream.write(text(line) ?? '') });
  }
  return pino(options, stream);
}

/**
 * Libraries print what they find to the console, BullMQ for each of its connections: here it is a line of the log, once.
 * @returns what puts the console back
 */
export function consoleToLog(log: Logger): () => void {
  const { warn, error } = console;
  const told = new Set<string>();
  const tell = (...parts: unknown[]): void => {
    const text = format(...parts).split('\n')[0] ?? '';
    if (told.has(text)) return;
    told.add(text);
    const policy = /Eviction policy is ([\w-]+)/.exec(text)?.[1];
    const jobsVanish = `Redis may throw jobs away when its memory runs short: maxmemory-policy is ${policy}, set noeviction`;
    log.warn(policy === undefined ? text : jobsVanish);
  };
  Object.assign(console, { warn: tell, error: tell });
  return () => void Object.assign(console, { warn, error });
}

/**
 * An error without what it carries besides: ioredis hangs the command that failed on it, and AUTH has the password, and the
 * AWS SDK the whole answer.
 */
function plainError(error: unknown): object {
  if (!(error instanceof Error)) return { message: String(error) };
  const { name, message, stack, cause } = error;
  return {
    type: name,
    message,
    // where the program was when Redis refused something says nothing about why
    ...(redisTrouble(error) === undefined ? { stack } : {}),
    ...(cause instanceof Error ? { cause: `${cause.name}: ${cause.message}` } : {}),
  };
}

/**
 * Written in this thread, and at the latest when the process exits. A write takes as long as making ten lines, and wakes
 * whoever reads them: after one, lines are gathered for BETWEEN_WRITES, which is a tenth of what a short job costs
 * (measured). The first line after a pause is written at the end of its turn of the event loop. A log whose disk is full
 * stops nobody's work: lines wait until there is room, the latest of too many are lost.
 */
function standardOutput(): DestinationStream {
  const stream = pino.destination({ dest: 1, sync: true, maxLength: LOG_KEPT });
  // unheard, it would end the process; every further line tries again
  stream.on('error', () => {});
  let lines = '';
  let isPlanned = false;
  const write = (): void => {
    const all = lines;
    lines = '';
    isPlanned = all !== '';
    if (!isPlanned) return;
    setTimeout(write, BETWEEN_WRITES).unref();
    stream.write(all);
  };
  process.on('exit', write);
  return {
    write(line) {
      lines += line;
      if (isPlanned) return;
      isPlanned = true;
      setImmediate(write);
    },
  };
}
