import { once } from 'node:events';
import { Command } from 'commander';
import type { Cli } from './output.ts';
import { configOf, LOG_SETTINGS, QUEUE_SETTINGS, takesSettings } from './settings.ts';

const EXAMPLES = `
Without a password the board answers on loopback only. Open to all: /healthz (alive) and /readyz (Redis answers).
Prometheus reads /metrics, with the user and password if there are any.

Examples:
  unpackd board
  UNPACK_BOARD_PASSWORD=… unpackd board --board-host 0.0.0.0 --board-user ops`;

/** `unpackd board`. */
export function boardCommand({ signal }: Cli): Command {
  const command = new Command('board')
    .description(
      'Serves the web page with the jobs of the queue (look, retry, clean), health and metrics, until SIGTERM.',
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
