#!/usr/bin/env node
import { constants } from 'node:os';
import { format } from 'node:util';
import { Command, CommanderError } from 'commander';
import { UnpackError } from '../errors.ts';
import { maskSecrets } from '../secrets.ts';
import { CliError, explain } from './explain-error.ts';
import { type Cli, Output } from './output.ts';

/** The program `unpackd`: finds the command, runs it, and prints its failure. */

interface Entry {
  readonly name: string;
  readonly arguments?: string;
  readonly summary: string;
  /** Imports the command when it runs, so that `--help` does not wait for an S3 client. */
  readonly load: () => Promise<(cli: Cli) => Command>;
}

const COMMANDS: readonly Entry[] = [
  {
    name: 'worker',
    summary: 'take jobs from the queue and unpack their images',
    load: async () => (await import('./worker.ts')).workerCommand,
  },
  {
    name: 'enqueue',
    arguments: '[IMAGE]',
    summary: 'add a job; --watch waits until it completes or fails',
    load: async () => (await import('./enqueue.ts')).enqueueCommand,
  },
  {
    name: 'status',
    arguments: 'JOB',
    summary: 'show the progress of a job, or its result or failure',
    load: async () => (await import('./status.ts')).statusCommand,
  },
  {
    name: 'cancel',
    arguments: 'JOB',
    summary: 'cancel a job that waits or runs',
    load: async () => (await import('./cancel.ts')).cancelCommand,
  },
  {
    name: 'queue',
    summary: 'show what waits, what runs, the workers, and recent failures',
    load: async () => (await import('./queue.ts')).queueCommand,
  },
  {
    name: 'retry',
    arguments: 'JOB…',
    summary: 'retry failed jobs, by ID or by failure code',
    load: async () => (await import('./retry.ts')).retryCommand,
  },
  {
    name: 'apply',
    arguments: 'IMAGE',
    summary: 'unpack an image on this machine, without a queue',
    load: async () => {
      // start the thread first: starting it takes as long as everything else that `apply` does before the first layer
      const { ApplyThread } = await import('../rootfs/apply-thread.ts');
      const thread = new ApplyThread();
      // the process can crash if it exits while a thread loads native code
      beforeExit = () => thread.end();
      const { applyCommand } = await import('./apply.ts');
      return (cli) => applyCommand(cli, thread);
    },
  },
  {
    name: 'push',
    arguments: 'SOURCE TARGET',
    summary: 'copy an image into a bucket, from an OCI layout or docker save',
    load: async () => (await import('./push.ts')).pushCommand,
  },
  {
    name: 'snapshots',
    summary: 'show and change the snapshot store: ls, stat, usage, mount, mounts, umount, rm, cleanup, release',
    load: async () => (await import('./snapshots.ts')).snapshotsCommand,
  },
  {
    name: 'images',
    summary: 'show and change the images of the store: ls, inspect, rm, pin, unpin, register',
    load: async () => (await import('./images.ts')).imagesCommand,
  },
  {
    name: 'gc',
    summary: 'remove the images that were not used for the longest time, until enough is free',
    load: async () => (await import('./gc.ts')).gcCommand,
  },
  {
    name: 'snapshotter',
    summary: 'serve the store to containerd, which starts containers from it',
    load: async () => (await import('./snapshotter.ts')).snapshotterCommand,
  },
  {
    name: 'layer',
    summary: 'show and compare layers: ls, diff',
    load: async () => (await import('./layer.ts')).layerCommand,
  },
  {
    name: 'board',
    summary: 'serve the web page of the queue, health and metrics',
    load: async () => (await import('./board.ts')).boardCommand,
  },
  {
    name: 'settings',
    summary: 'list every setting with its value and where the value comes from',
    load: async () => (await import('./settings.ts')).settingsCommand,
  },
  {
    name: 'doctor',
    summary: 'check Redis, S3, the store and permissions, and say what to repair',
    load: async () => (await import('./doctor.ts')).doctorCommand,
  },
  {
    name: 'demo',
    summary: 'run everything on this machine in under a minute (in a checkout)',
    load: async () => (await import('./demo.ts')).demoCommand,
  },
];

const HELP = `
Examples:
  unpackd demo                                        see it work on this machine; needs a checkout
  unpackd doctor                                      check whether this machine can be a worker
  unpackd worker                                      take jobs until SIGTERM
  unpackd push ./layout:app s3://images/app:1.0       copy an image into a bucket
  unpackd enqueue s3://images/app:1.0 --watch         add a job and wait until it completes or fails
  unpackd apply ./layout:app --root /tmp/store        unpack the same image without a queue
  unpackd images ls                                   list the images of the store
  unpackd snapshots ls                                list the snapshots of the store
  unpackd layer ls layer.tar.gz                       list the entries of a layer

A setting is a flag, or else an environment variable, or else its default. unpackd settings lists all settings,
unpackd COMMAND --help the settings of a command.

Exit status: 0 success, 1 failure, 2 wrong use, 130 interrupted.`;

const args = process.argv.slice(2);
const out = new Output(args.includes('--json'));
const interruption = new AbortController();
/** Work that must finish before the process exits. */
let beforeExit: () => Promise<void> = async () => {};
let interruptedBy: 'SIGINT' | 'SIGTERM' | undefined;

// a reader can close the pipe early (unpackd snapshots ls | head -1); that is no failure
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}
// libraries print warnings to the console, some of them many times: print each once
const printed = new Set<string>();
console.warn = console.error = (...parts: unknown[]) => {
  const text = maskSecrets(format(...parts).split('\n')[0] ?? '');
  if (!printed.has(text)) out.note(`unpackd: ${text}`);
  printed.add(text);
};
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    // the second signal does not wait for the clean-up
    if (interruptedBy !== undefined) process.exit(128 + constants.signals[name]);
    interruptedBy = name;
    interruption.abort(new UnpackError('CANCELLED', `interrupted by ${name}`));
  });
}
process.on('uncaughtException', (error) => process.exit(report(error)));

void main().then(async (status) => {
  await beforeExit();
  await out.flushed(interruption.signal);
  process.exit(status);
});

async function main(): Promise<number> {
  try {
    const program = await build({ signal: interruption.signal, out });
    await program.parseAsync(args, { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    // commander throws for --help and --version, too
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    return report(error);
  }
}

async function build(cli: Cli): Promise<Command> {
  const { version } = await import('../package.ts');
  const program = new Command('unpackd')
    .description('Unpacks container images from S3 into a local snapshot store, job by job.')
    .usage('COMMAND [options]')
    .version(version)
    .addHelpText('after', HELP)
    .hook('preAction', (_program, command) => refuseEmpty(command));
  const named = args.find((argument) => !argument.startsWith('-') && argument !== 'help');
  for (const entry of COMMANDS) {
    const summary = program.createCommand(entry.name).usage(entry.arguments ?? '');
    const command = entry.name === named ? (await entry.load())(cli) : summary;
    program.addCommand(command.summary(entry.summary));
  }
  for (const command of everyCommand(program)) {
    command
      .exitOverride()
      .configureOutput({ writeErr: () => {} }) // report() prints them
      .configureHelp({ subcommandTerm: (sub) => `${sub.name()} ${usageOf(sub.name())}`.trim(), helpWidth: 110 })
      .showSuggestionAfterError();
  }
  return program;
}

/** Refuses an empty argument: it comes from an unset shell variable, and must not mean "all". @throws CliError USAGE */
function refuseEmpty(command: Command): void {
  command.registeredArguments.forEach((argument, index) => {
    const given: unknown = command.processedArgs[index];
    if (hasEmpty(given)) throw new CliError('USAGE', `${argument.name().toUpperCase()} is empty`);
  });
  for (const option of command.options) {
    // settings have their own checks, and empty values are valid for some
    const isSetting = /\([A-Z0-9]+_[A-Z0-9_]+[;)]/.test(option.description);
    const given: unknown = command.getOptionValue(option.attributeName());
    if (!isSetting && hasEmpty(given)) throw new CliError('USAGE', `the value of ${option.long} is empty`);
  }
}

function hasEmpty(value: unknown): boolean {
  return value === '' || (Array.isArray(value) && value.includes(''));
}

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap(everyCommand)];
}

function usageOf(name: string): string {
  return COMMANDS.find((entry) => entry.name === name)?.arguments ?? '';
}

/** Prints the failure. @returns the exit status */
function report(error: unknown): number {
  // an interrupted command can fail in many ways; the reason is the interrupt
  const shown = interruption.signal.aborted ? interruption.signal.reason : error;
  const { code, message, exitStatus } = explain(shown);
  if (out.json) process.stdout.write(`${JSON.stringify({ error: { code, message } })}\n`);
  out.note(`unpackd: [${code}] ${message}`);
  const level = process.env.UNPACK_LOG_LEVEL;
  if ((level === 'debug' || level === 'trace') && error instanceof Error) out.note(maskSecrets(error.stack ?? ''));
  return interruptedBy === undefined ? exitStatus : 128 + constants.signals[interruptedBy];
}
