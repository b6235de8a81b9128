import { Command } from 'commander';
import { QUEUE_SETTINGS } from '../config.ts';
import { UnreadableJobError } from '../queue/errors.ts';
import { FAILURE_ADVICE } from '../queue/failure-advice.ts';
import type { UnpackResult } from '../queue/formats.ts';
import { type JobStatus, jobError } from '../queue/job-status.ts';
import { CliError } from './explain-error.ts';
import { placeLines, progressLines, resultLines } from './job-view.ts';
import type { Cli } from './output.ts';
import { configOf, takesSettings } from './settings.ts';
import { checkTimelineName, type TimelineOption, takesTimeline, writeTimeline } from './timeline.ts';

const EXAMPLES = `
Examples:
  unpackd status 3f1c… --watch
  unpackd status 3f1c… --timeline why-slow.svg
  unpackd status 3f1c… --json | jq '{state, failure}'`;

/** `unpackd status`: shows a job. */
export function statusCommand(cli: Cli): Command {
  const command = new Command('status')
    .description(
      'Shows the progress of a job, or its result or failure. The exit status is 0 for a failed job, too, except with --watch.',
    )
    .argument('<job>', 'its ID, as enqueue printed it')
    .option(
      '--watch',
      'wait until the job completes or fails, and show its progress; the exit status is 1 if the job fails',
    )
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES);
  takesTimeline(command);
  takesSettings(command, QUEUE_SETTINGS);
  return command.action(async (id: string, options: { readonly watch?: true } & TimelineOption) => {
    const config = configOf(command);
    checkTimelineName(options.timeline);
    const { UnpackQueue } = await import('../queue/producer.ts');
    const queue = new UnpackQueue(config);
    try {
      if (options.watch) {
        const { watchJob } = await import('./watch.ts');
        await watchJob(queue, id, {}, cli);
        if (options.timeline === undefined) return;
      }
      const status = await queue.status(id);
      if (!options.watch) cli.out.result(status, () => lines(status));
      if (options.timeline !== undefined) await writeTimeline(options.timeline, resultOf(status));
    } finally {
      await queue.close();
    }
  });
}

/** @throws CliError USAGE if the job is not completed, and so has no times; UnreadableJobError */
function resultOf({ id, state, result, resultProblem }: JobStatus): UnpackResult {
  if (result !== undefined) return result;
  if (resultProblem !== undefined) throw new UnreadableJobError(resultProblem);
  throw new CliError('USAGE', `job ${id} is ${state}, and only a completed job has a timeline`);
}

function lines(status: JobStatus): string[] {
  const { id, state, image, cancelRequested, added, progress, result, resultProblem, failedReason } = status;
  const head = [
    `job    ${id}`,
    `image  ${image ?? '(none)'}`,
    `state  ${state}${cancelRequested ? ', cancel requested' : ''}`,
    `added  ${added.toISOString()}`,
  ];
  if (result !== undefined) return [...head, '', ...resultLines(result)];
  if (resultProblem !== undefined) return [...head, '', resultProblem];
  const failures = (progress?.failures ?? []).map(
    ({ attempt, attempts, at, code, message }) => `attempt ${attempt} of ${attempts}, ${at}: [${code}] ${message}`,
  );
  // if BullMQ itself fails a job, the job has only failedReason
  const last = failures.length === 0 && failedReason !== undefined ? [failedReason] : [];
  // while a job waits for a worker, its progress is that of an earlier run
  const shows = state === 'active' || (state === 'delayed' && progress?.waiting !== undefined);
  const running = shows && progress !== undefined ? progressLines(progress) : [];
  const todo = state === 'failed' ? todoLines(status) : [];
  return [...head, ...placeLines(status), ...running, ...failures, ...last, ...todo];
}

/** What to do about the failure, as the board says it. A code of another program or a newer version is not known. */
function todoLines(status: JobStatus): string[] {
  const { code } = jobError(status);
  const isKnown = status.failure !== undefined || status.failedReason?.startsWith(`[${code}] `);
  return isKnown === true ? [`to do  ${FAILURE_ADVICE[code].todo}`] : [];
}
