import { Command } from 'commander';
import { QUEUE_SETTINGS } from '../config.ts';
import { FAILURE_CODES, type FailureCode } from '../errors.ts';
import type { RetryOutcome } from '../queue/retry-jobs.ts';
import { count, parseDuration } from '../units.ts';
import { CliError, EXIT_FAILED } from './explain-error.ts';
import type { Cli } from './output.ts';
import { configOf, takesSettings } from './settings.ts';

const EXAMPLES = `
Examples:
  unpackd retry 3f1c…
  unpackd retry --code SOURCE_UNAVAILABLE --since 1h`;

interface RetryOptions {
  readonly code?: string;
  readonly since?: string;
}

/** `unpackd retry`: retries failed jobs by hand. */
export function retryCommand({ out }: Cli): Command {
  const command = new Command('retry')
    .description(
      'Retries failed jobs, each with all its attempts again: the named ones, or all that failed with a code and are still kept ' +
        '(UNPACK_KEEP_FAILED). A job is refused if it is not failed, or if a job for the same image was added meanwhile and waits or ' +
        'runs. With named jobs the exit status is 1 if one of them is refused.',
    )
    .argument('[job...]', 'their IDs, as enqueue printed them')
    .option('--code <code>', 'all failed jobs with this code, for example SOURCE_UNAVAILABLE')
    .option('--since <time>', 'with --code: only jobs that failed within this time, for example 1h or 30m')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES);
  takesSettings(command, QUEUE_SETTINGS);
  return command.action(async (named: readonly string[], { code, since }: RetryOptions) => {
    const config = configOf(command);
    const wanted = wantedCode(named, code, since);
    const earliest = since === undefined ? 0 : Date.now() - timeOf(since);
    const { UnpackQueue } = await import('../queue/producer.ts');
    const queue = new UnpackQueue(config);
    try {
      const ids = wanted === undefined ? [...new Set(named)] : await queue.failed(wanted, earliest);
      const outcomes = await queue.retry(ids);
      const retried = outcomes.filter((outcome) => outcome.retried).map(({ id }) => id);
      const refused = outcomes.flatMap((outcome) => (outcome.retried ? [] : [outcome]));
      const document = { retried, refused: refused.map(({ id, code, message }) => ({ id, code, message })) };
      out.result(document, () => (wanted === undefined ? jobLines(retried) : [sentence(wanted, retried, refused)]));
      for (const { code, message } of refused) out.note(`unpackd: [${code}] ${message}`);
      if (wanted === undefined && refused.length > 0) process.exitCode = EXIT_FAILED;
    } finally {
      await queue.close();
    }
  });
}

/** @throws CliError USAGE unless either jobs or a code are given */
function wantedCode(named: readonly string[], code: string | undefined, since: string | undefined) {
  if (named.length > 0 === (code !== undefined)) {
    throw new CliError('USAGE', 'give either the IDs of jobs or --code CODE');
  }
  if (code === undefined) {
    if (since !== undefined) throw new CliError('USAGE', '--since needs --code: give the code of the failed jobs');
    return undefined;
  }
  if (isCode(code)) return code;
  throw new CliError(
    'USAGE',
    `${JSON.stringify(code)} is not a failure code; the codes are ${Object.keys(FAILURE_CODES).join(', ')}`,
  );
}

function isCode(text: string): text is FailureCode {
  return Object.hasOwn(FAILURE_CODES, text);
}

/** @throws CliError USAGE */
function timeOf(text: string): number {
  const milliseconds = parseDuration(text);
  if (Number.isFinite(milliseconds) && milliseconds > 0 && /[a-z]$/.test(text)) return milliseconds;
  throw new CliError(
    'USAGE',
    `--since ${JSON.stringify(text)} is not a time: write a number and s, m, h or d, as in 1h`,
  );
}

function jobLines(retried: readonly string[]): string[] {
  return retried.map((id) => `job ${id} waits again, with all its attempts`);
}

function sentence(code: FailureCode, retried: readonly string[], refused: readonly RetryOutcome[]): string {
  if (retried.length + refused.length === 0) return `no job that failed with ${code} is kept`;
  const rest = refused.length === 0 ? '' : `, ${refused.length} refused`;
  return `${count(retried.length, 'job')} that failed with ${code} ${retried.length === 1 ? 'waits' : 'wait'} again${rest}`;
}
