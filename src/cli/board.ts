import { once } from 'node:events';
import { Command } from 'commander';
import { QUEUE_SETTINGS } from '../config.ts';
import type { Cli } from './output.ts';
import { configOf, LOG_SETTINGS, takesSettings } from './settings.ts';

const EXAMPLES = `
Without a password, the board listens on loopback only. /healthz (the process is alive) and /readyz (Redis answers) never
need a password. Prometheus reads /metrics with the same user and password as a browser.

Examples:
  unpackd board
  UNPACK_BOARD_PASSWORD=… unpackd board --board-host 0.0.0.0 --board-user ops`;

/** `unpackd board`: serves the board until SIGTERM. `src/board` holds the board itself. */
export function boardCommand({ signal }: Cli): Command {
  const command = new Command('board')
    .description(
      'Serves a web page that shows, retries and removes jobs, and health and metrics for other programs, until SIGTERM.',
    )
    .addHelpText('after', EXAMPLES);
  takesSettings(command, [
    ...QUEUE_SETTINGS,
    'UNPACK_BOARD_HOST',
    'UNPACK_BOARD_PORT',
    'UNPACK_BOARD_USER',
    'UNPACK_BOARD_PASSWORD',
    ...LOG_SETTINGS,
  ]);
  return command.action(async () => {
    const config = configOf(command);
    const { consoleToLog, createLog } = await import('../queue/log.ts');
    const { startBoard } = await import('../board/board.ts');
    const log = createLog(config);
    consoleToLog(log);
    const board = await startBoard(config, log);
    if (!signal.aborted) await once(signal, 'abort');
    await board.close();
  });
}
