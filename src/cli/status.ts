import { Command } from 'commander';
import type { JobStatus } from '../queue/job-status.ts';
import type { Cli } from './context.ts';
import { progressLines } from './progress-view.ts';
import { resultLines } from './result-view.ts';
import { configOf, QUEUE_SETTINGS, takesSettings } from './settings.ts';

const EXAMPLES = `
Examples:
  unpackd status 3f1c… --watch
  unpackd status 3f1c… --json | jq '{state, failure}'`;

/** `unpackd status`. */
export function statusCommand(cli: Cli): Command {
  const command = new Command('status')
    .description('Tells how far a job is, or how it ended. Exit status 0 also for a failed job, unless it is watched.')
    .argument('<job>', 'its ID, as enqueue has told it')
    .option('--watch', 'follow the job to its end; the exit status is then the job’s')
    .option('--json', 'one JSON document')
    .addHelpText('after', EXAMPLES);
  takesSettings(command, QUEUE_SETTINGS);
  return command.action(async (id: string, options: { readonly watch?: true }) => {
    const config = configOf(command);
    const { UnpackQueue } = await import('../queue/producer.ts');
    const queue = new UnpackQueue(config);
    try {
      if (options.watch) {
        const { watchJob } = await import('./watch.ts');
        return await watchJob(queue, id, {}, cli);
      }
      const status = await queue.status(id);
      cli.out.result(status, () => lines(status));
    } finally {
      await queue.close();
    }
  });
}

function lines({ id, state, image, cancelRequested, added, progress, result, failedReason }: JobStatus): string[] {
  const head = [
    `job    ${id}`,
    `image  ${image ?? '(none)'}`,
    `state  ${state}${cancelRequested ? ', asked to end' : ''}`,
    `added  ${added.toISOString()}`,
  ];
  if (result !== undefined) return [...head, '', ...resultLines(result)];
  const failures = (progress?.failures ?? []).map(
    ({ attempt, attempts, at, code, message }) => `attempt ${attempt} of ${attempts}, ${at}: [${code}] ${message}`,
  );
  // BullMQ can fail a job by itself, and then this is all there is
  const last = failures.length === 0 && failedReason !== undefined ? [failedReason] : [];
  const running = state === 'active' && progress !== undefined ? progressLines(progress) : [];
  return [...head, ...running, ...failures, ...last];
}
