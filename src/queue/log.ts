import { type DestinationStream, type Logger, pino, stdTimeFunctions } from 'pino';
import pretty from 'pino-pretty';
import type { Config } from '../config.ts';

export type { Logger } from 'pino';

export type LogSettings = Pick<Config, 'UNPACK_LOG_LEVEL' | 'UNPACK_LOG_FORMAT'>;

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
  };
  const format = settings.UNPACK_LOG_FORMAT;
  const onTerminal = destination === undefined && process.stdout.isTTY === true;
  if (format === 'pretty' || (format === 'auto' && onTerminal)) {
    // in this thread: a line written just before the process ends must not be lost in another one
    const stream = pretty({
      colorize: onTerminal,
      sync: true,
      translateTime: 'SYS:HH:MM:ss.l',
      ...(destination === undefined ? {} : { destination }),
    });
    return pino(options, stream);
  }
  return destination === undefined
    ? pino(options, pino.destination({ dest: 1, sync: true }))
    : pino(options, destination);
}
