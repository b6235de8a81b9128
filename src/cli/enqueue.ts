import { readFile, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { addAbortSignal } from 'node:stream';
import { text } from 'node:stream/consumers';
import { Command, InvalidArgumentError } from 'commander';
import { type Config, QUEUE_SETTINGS } from '../config.ts';
import type { Payload } from '../queue/formats.ts';
import type { TraceContext } from '../queue/producer.ts';
import { traceSettings } from '../tracing/otel-variables.ts';
import type { ProducerTraces } from '../tracing/producer-traces.ts';
import { CliError } from './explain-error.ts';
import { type ImageOptions, payloadOf, takesImageOptions } from './image-argument.ts';
import type { Cli } from './output.ts';
import { configOf, takesSettings } from './settings.ts';

const EXAMPLES = `
Examples:
  unpackd enqueue s3://images/team/app:1.0 --watch
  unpackd enqueue s3://registry:3.20 --layout distribution --image docker.io/library/alpine:3.20
  unpackd enqueue s3://images/app@sha256:… --platform linux/amd64 linux/arm64 --priority 1
  unpackd enqueue --payload job.json
  jq -c . job.json | unpackd enqueue --payload - --json | jq -r .id`;

interface EnqueueOptions extends ImageOptions {
  readonly payload?: string;
  readonly watch?: true;
  readonly priority?: number;
  readonly attempts?: number;
  readonly delay?: number;
  readonly deduplicate: boolean;
}

/** `unpackd enqueue`: adds a job, from flags or from a payload. */
export function enqueueCommand(cli: Cli): Command {
  const command = new Command('enqueue')
    .description(
      'Adds a job. IMAGE is s3://BUCKET/PREFIX, followed by :TAG or @DIGEST. The worker uses its own endpoint and credentials.\n' +
        'If the same work waits or runs already, no job is added, and the ID of that job is printed.',
    )
    .argument('[image]')
    .option('--payload <file>', 'a payload as JSON (schemas/payload.schema.json) instead of IMAGE; - means stdin')
    .option(
      '--watch',
      'wait until the job completes or fails, and show its progress; the exit status is 1 if the job fails',
    )
    .option(
      '--priority <number>',
      '1 is the first; jobs without a priority come before all jobs with one',
      whole(1, 2_097_151),
    )
    .option('--attempts <number>', 'attempts of the job (default: UNPACK_ATTEMPTS of the worker)', whole(1, 100))
    .option('--delay <seconds>', 'minimum time before the job starts', whole(0, 31_536_000))
    .option('--no-deduplicate', 'add the job even if the same work waits or runs already')
    .option('--json', 'print one JSON document');
  takesImageOptions(command).addHelpText('after', EXAMPLES);
  takesSettings(command, QUEUE_SETTINGS);
  return command.action(async (argument: string | undefined, options: EnqueueOptions) => {
    const config = configOf(command);
    const payload = await readPayload(argument, options, cli.signal);
    const { priority, attempts, delay, deduplicate } = options;
    const { UnpackQueue } = await import('../queue/producer.ts');
    const traces = await tracesOf(config, cli);
    const queue = new UnpackQueue(config);
    try {
      const add = (trace: TraceContext | undefined) =>
        queue.add(payload, {
          deduplicate,
          ...(priority === undefined ? {} : { priority }),
          ...(attempts === undefined ? {} : { attempts }),
          ...(delay === undefined ? {} : { delay: delay * 1000 }),
          ...(trace === undefined ? {} : { trace }),
        });
      const parent = parentOf(process.env);
      const job = await (traces === undefined ? add(parent) : traces.send(parent, add));
      if (options.watch) {
        const { watchJob } = await import('./watch.ts');
        return await watchJob(queue, job.id, { deduplicated: job.deduplicated }, cli);
      }
      const found = job.deduplicated ? ' (the queue had a job for the same work already)' : '';
      cli.out.result(job, () => [`job ${job.id}${found}`]);
    } finally {
      await queue.close();
      await traces?.close();
    }
  });
}

/** The span of the program that has started this one, by the variables that OpenTelemetry has for it. */
function parentOf({ TRACEPARENT: traceparent, TRACESTATE: tracestate }: NodeJS.ProcessEnv): TraceContext | undefined {
  if (traceparent === undefined || !/^[\da-f]{2}-[\da-f]{32}-[\da-f]{16}-[\da-f]{2}/.test(traceparent))
    return undefined;
  return { traceparent, ...(tracestate === undefined ? {} : { tracestate }) };
}

/** A span is made only if a collector is set. Otherwise nothing of OpenTelemetry is loaded. @throws ConfigError */
async function tracesOf({ UNPACK_QUEUE: queue }: Config, { out }: Cli): Promise<ProducerTraces | undefined> {
  const settings = traceSettings(process.env);
  if (settings === undefined) return undefined;
  const { startProducerTraces } = await import('../tracing/producer-traces.ts');
  const instance = `${hostname()}:${process.pid}`;
  const log = (level: 'info' | 'warn', sentence: string) => {
    if (level === 'warn') out.note(sentence);
  };
  return startProducerTraces({ settings, queue, instance, log });
}

async function readPayload(
  argument: string | undefined,
  options: EnqueueOptions,
  signal: AbortSignal,
): Promise<Payload> {
  const { payload: file } = options;
  if ((argument === undefined) === (file === undefined)) {
    throw new CliError('USAGE', 'give either IMAGE (s3://BUCKET/PREFIX:TAG) or --payload FILE');
  }
  const { checkPayload } = await import('../queue/check-payload.ts');
  if (file === undefined) return checkPayload(payloadOf(argument ?? '', options));
  const name = file === '-' ? 'stdin' : file;
  // opening a named pipe without a writer blocks and cannot be interrupted; a pipe that the shell passes has a writer
  if (file !== '-' && !/^\/(dev|proc)\//.test(file) && (await stat(file).catch(() => undefined))?.isFIFO()) {
    throw new CliError('USAGE', `${name} is a named pipe: give a file, or - for stdin`);
  }
  const json = await (file === '-' ? readStdin(signal) : readFile(file, 'utf8')).catch((error: Error) => {
    signal.throwIfAborted();
    throw new CliError('USAGE', `${name} cannot be read: ${error.message}`);
  });
  let data: unknown;
  try {
    data = JSON.parse(json);
  } catch (error) {
    // the message quotes a piece of the text, which can be a secret
    const reason = (error instanceof Error ? error.message : String(error)).replace(/, ?\.{0,3}"[\s\S]*$/, '');
    throw new CliError('USAGE', `${name} is not JSON: ${reason}`);
  }
  return checkPayload(data);
}

/** Reads all of stdin. Stops when `signal` is aborted. */
function readStdin(signal: AbortSignal): Promise<string> {
  return text(addAbortSignal(signal, process.stdin));
}

function whole(least: number, most: number): (text: string) => number {
  return (text) => {
    const number = Number(text);
    if (!/^\d+$/.test(text) || number < least || number > most) {
      throw new InvalidArgumentError(`Write a whole number from ${least} to ${most}.`);
    }
    return number;
  };
}
