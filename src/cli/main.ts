#!/usr/bin/env node
import { constants } from 'node:os';
import { format } from 'node:util';
import { Command, CommanderError } from 'commander';
import { UnpackError } from '../errors.ts';
import { maskSecrets } from '../secrets.ts';
import { CliError, explain } from './failure.ts';
import type { Cli } from './output.ts';
import { Output } from './output.ts';

interface Entry {
  readonly name: string;
  readonly arguments?: string;
  readonly summary: string;
  /** Imported only when it is this command that runs: `--help` must not wait for an S3 client. */
  readonly load: () => Promise<(cli: Cli) => Command>;
}

const COMMANDS: readonly Entry[] = [
  {
    name: 'worker',
    summary: 'take jobs from the queue and unpack them',
    load: async () => (await import('./worker.ts')).workerCommand,
  },
  {
    name: 'enqueue',
    arguments: '[IMAGE]',
    summary: 'add a job; --watch follows it to its end',
    load: async () => (await import('./enqueue.ts')).enqueueCommand,
  },
  {
    name: 'status',
    arguments: 'JOB',
    summary: 'tell how far a job is, or how it ended',
    load: async () => (await import('./status.ts')).statusCommand,
  },
  {
    name: 'cancel',
    arguments: 'JOB',
    summary: 'end a job, waiting or running',
    load: async () => (await import('./cancel.ts')).cancelCommand,
  },
  {
    name: 'apply',
    arguments: 'IMAGE',
    summary: 'unpack an image here and now, without a queue',
    load: async () => {
      // first of all: the thread starts beside everything else that happens before the first layer, and takes as long
      const { ApplyThread } = await import('../rootfs/apply-thread.ts');
      const thread = new ApplyThread();
      // a process that exits while a thread loads native code may be aborted by it
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
    summary: 'look into the snapshot store: ls, stat, usage, mount, umount, rm, cleanup',
    load: async () => (await import('./snapshots.ts')).snapshotsCommand,
  },
  {
    name: 'layer',
    summary: 'look into a layer: ls, diff',
    load: async () => (await import('./layer.ts')).layerCommand,
  },
  {
    name: 'board',
    summary: 'serve the web page with the queue, health and metrics',
    load: async () => (await import('./board.ts')).boardCommand,
  },
  {
    name: 'settings',
    summary: 'list every setting, its value here and where that comes from',
    load: async () => (await import('./settings.ts')).settingsCommand,
  },
  {
    name: 'doctor',
    summary: 'check Redis, S3, the store and permissions, and say what to do',
    load: async () => (await import('./doctor.ts')).doctorCommand,
  },
  {
    name: 'demo',
    summary: 'show all of it on this machine in under a minute (in a checkout)',
    load: async () => (await import('./demo.ts')).demoCommand,
  },
];

const HELP = `
Examples:
  unpackd demo                                        see it work on this machine; needs a checkout
  unpackd doctor                                      is this machine fit to be a worker?
  unpackd worker                                      take jobs until SIGTERM
  unpackd push ./layout:app s3://images/app:1.0       an image into a bucket
  unpackd enqueue s3://images/app:1.0 --watch         a job, followed to its end
  unpackd apply ./layout:app --root /tmp/store        the same unpacking without a queue
  unpackd snapshots ls                                what is in the store
  unpackd layer ls layer.tar.gz                       what is in a layer

Settings come from flags, then from the environment, then from defaults: unpackd settings lists them all,
unpackd COMMAND --help those that a command uses.

Exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted.`;

const args = process.argv.slice(2);
const out = new Output(args.includes('--json'));
const interruption = new AbortController();
/** What must come to its end before the process may. */
let beforeExit: () => Promise<void> = async () => {};
let interruptedBy: 'SIGINT' | 'SIGTERM' | undefined;

// a reader that has seen enough (unpackd snapshots ls | head -1) is no failure
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}
// libraries print what they find to the console, and once is enough
const printed = new Set<string>();
console.warn = console.error = (...parts: unknown[]) => {
  const text = maskSecrets(format(...parts).split('\n')[0] ?? '');
  if (!printed.has(text)) out.note(`unpackd: ${text}`);
  printed.add(text);
};
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    // the second one does not wait for the cleaning up
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
    // help and version end here too, with 0
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    return report(error);
  }
}

async function build(cli: Cli): Promise<Command> {
  const { version } = await import('./package.ts');
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
      .configureOutput({ writeErr: () => {} }) // told by report()
      .configureHelp({ subcommandTerm: (sub) => `${sub.name()} ${usageOf(sub.name())}`.trim(), helpWidth: 110 })
      .showSuggestionAfterError();
  }
  return program;
}

/** An empty word is a variable of the shell that is not set: no command may take it for everything. @throws CliError USAGE */
function refuseEmpty(command: Command): void {
  command.registeredArguments.forEach((argument, index) => {
    const given: unknown = command.processedArgs[index];
    if (hasEmpty(given)) throw new CliError('USAGE', `${argument.name().toUpperCase()} is empty`);
  });
  for (const option of command.options) {
    // a setting has its own check, and some may be empty
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

/** Tells the failure and returns the status to exit with. */
function report(error: unknown): number {
  // whatever the interrupted work made of it
  const shown = interruption.signal.aborted ? interruption.signal.reason : error;
  const { code, message, exitStatus } = explain(shown);
  if (out.json) process.stdout.write(`${JSON.stringify({ error: { code, message } })}\n`);
  out.note(`unpackd: [${code}] ${message}`);
  const level = process.env.UNPACK_LOG_LEVEL;
  if ((level === 'debug' || level === 'trace') && error instanceof Error) out.note(maskSecrets(error.stack ?? ''));
  return interruptedBy === undefined ? exitStatus : 128 + constants.signals[interruptedBy];
}
