import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { QUEUE_SETTINGS } from '../config.ts';
import type { UnpackQueue } from '../queue/producer.ts';
import { CliError } from './explain-error.ts';
import { type Cli, LiveRegion } from './output.ts';
import { queueLines } from './queue-view.ts';
import { configOf, takesSettings } from './settings.ts';

const EXAMPLES = `
Examples:
  unpackd queue
  unpackd queue --watch
  unpackd queue --json | jq '.counts.waiting, .failuresOfLastHour'`;

/** Milliseconds between two looks at the queue with --watch. */
const PAUSE = 2000;

/** `unpackd queue`: shows the queue and its workers. */
export function queueCommand(cli: Cli): Command {
  const command = new Command('queue')
    .description(
      'Shows how many jobs wait, run and have ended, the job that waits longest, the workers with what they do, and the failures of ' +
        'the last hour by code. Workers report every ten seconds; a worker without a report for half a minute is silent.',
    )
    .option('--watch', 'show it again every two seconds, until Ctrl-C')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES);
  takesSettings(command, QUEUE_SETTINGS);
  return command.action(async (options: { readonly watch?: true }) => {
    const config = configOf(command);
    const { out } = cli;
    if (options.watch && !out.live) {
      throw new CliError('USAGE', '--watch needs a terminal: call unpackd queue --json again and again instead');
    }
    const { UnpackQueue } = await import('../queue/producer.ts');
    const queue = new UnpackQueue(config);
    try {
      if (options.watch) return await watch(queue, cli);
      const overview = await queue.overview();
      out.result(overview, () => queueLines(overview, out.width));
    } finally {
      await queue.close();
    }
  });
}

/** Shows the queue until the signal is aborted; throws its reason. */
async function watch(queue: UnpackQueue, { out, signal }: Cli): Promise<never> {
  const region = new LiveRegion(out.live);
  try {
    while (true) {
      region.draw(queueLines(await queue.overview(), out.width));
      await sleep(PAUSE, undefined, { signal }).catch(() => {});
      signal.throwIfAborted();
    }
  } finally {
    region.clear();
  }
}
