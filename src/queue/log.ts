import { format } from 'node:util';
import { type DestinationStream, type Logger, pino, stdTimeFunctions } from 'pino';
import { prettyFactory } from 'pino-pretty';
import type { Config } from '../config.ts';
import type { Log } from '../rootfs/applier.ts';
import { maskSecrets } from '../secrets.ts';
import { diagnoseRedisError } from './redis-diagnosis.ts';

export type { Logger } from 'pino';

export type LogSettings = Pick<Config, 'UNPACK_LOG_LEVEL' | 'UNPACK_LOG_FORMAT'>;

/** Maximum number of characters that are buffered while the log cannot be written. Further lines are dropped. */
const LOG_KEPT = 1 << 20;
/** Milliseconds between two writes of the log. */
const BETWEEN_WRITES = 10;
/** With more characters than this, the collected lines are written at once, because a write above LOG_KEPT is dropped. */
const MAX_COLLECTED = 1 << 16;

/**
 * Makes the logger of a process, which writes to stdout: JSON for programs, coloured text on a terminal. Child loggers add the
 * job and the image to each line.
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

/** A log for the parts that know sentences only. */
export function sentenceLog(log: Logger): Log {
  return (level, sentence, fields = {}) => log[level](fields, sentence);
}

/**
 * Sends warnings of libraries from the console to the log, each once. BullMQ repeats its warnings for each connection.
 * @returns a function that restores the console
 */
export function consoleToLog(log: Logger): () => void {
  const { warn, error } = console;
  const logged = new Set<string>();
  const logOnce = (...parts: unknown[]): void => {
    const text = format(...parts).split('\n')[0] ?? '';
    if (logged.has(text)) return;
    logged.add(text);
    const policy = /Eviction policy is ([\w-]+)/.exec(text)?.[1];
    const jobsVanish = `Redis can evict jobs when its memory is full, because maxmemory-policy is ${policy}: set noeviction`;
    log.warn(policy === undefined ? text : jobsVanish);
  };
  Object.assign(console, { warn: logOnce, error: logOnce });
  return () => void Object.assign(console, { warn, error });
}

/**
 * An error without its other fields, because these can contain secrets: ioredis adds the failed command, which for AUTH has the
 * password, and the AWS SDK adds the whole response.
 */
function plainError(error: unknown): object {
  if (!(error instanceof Error)) return { message: String(error) };
  const { name, message, stack, cause } = error;
  return {
    type: name,
    message,
    // the stack does not help if Redis has refused a command
    ...(diagnoseRedisError(error) === undefined ? { stack } : {}),
    ...(cause instanceof Error ? { cause: `${cause.name}: ${cause.message}` } : {}),
  };
}

/**
 * Writes lines from this thread, because the process can exit at any time. A write takes as long as formatting ten
 * lines, so after a write the next lines are collected for BETWEEN_WRITES; one write for each line would be a tenth of
 * the cost of a short job (measured). The first line after a pause is written in the same turn of the event loop. If
 * the disk is full, jobs continue: lines are buffered until there is space, and lines beyond LOG_KEPT are dropped.
 */
function standardOutput(): DestinationStream {
  const stream = pino.destination({ dest: 1, sync: true, maxLength: LOG_KEPT });
  // without a listener the error would crash the process; the next line is a new attempt to write
  stream.on('error', () => {});
  let lines = '';
  let isPlanned = false;
  const flush = (): void => {
    const all = lines;
    lines = '';
    if (all !== '') stream.write(all);
  };
  const write = (): void => {
    isPlanned = lines !== '';
    if (isPlanned) setTimeout(write, BETWEEN_WRITES).unref();
    flush();
  };
  process.on('exit', flush);
  return {
    write(line) {
      lines += line;
      if (lines.length > MAX_COLLECTED) flush();
      if (isPlanned) return;
      isPlanned = true;
      setImmediate(write);
    },
  };
}
