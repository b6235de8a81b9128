import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { execve } from 'node:process';
import { Command } from 'commander';
import { built, packageRoot } from '../package.ts';
import { CliError } from './explain-error.ts';
import type { Cli } from './output.ts';

const HELP = `
It runs in a checkout of the project only: the package does not contain it. Everything is in a temporary folder and
listens on loopback only. It
  1  starts Redis, an S3 server and a worker process; without redis-server on the PATH it uses REDIS_URL, or installs
     Redis with apt-get
  2  makes an image of four layers from files of this machine and pushes it into a bucket
  3  adds a job and follows it until it is done
  4  mounts the unpacked image and checks its files (mounting needs root)
  5  adds the same job again
  6  damages a blob in the bucket and adds a job that reads this blob
  7  starts a containerd of its own, unpacks the image into it, and runs a container from it, if containerd and runc are
     installed (needs root)
At the end, and after Ctrl-C, it stops every process that it started and removes every file that it wrote.`;

/** What `dev/demo/demo.ts` exports. Its types cannot be imported: the build of the package would then include it. */
interface DemoModule {
  readonly runDemo: (cli: Cli, packageRoot: string, options: { readonly keep: boolean }) => Promise<void>;
}

/** `unpackd demo`. The demo itself is in `dev/demo`, outside the package. */
export function demoCommand(cli: Cli): Command {
  return new Command('demo')
    .description('Shows how an image in a bucket becomes a tree on disk, on this machine.')
    .option('--keep', 'keep everything running, the web page too, until Ctrl-C')
    .addHelpText('after', HELP)
    .action(async ({ keep = false }: { readonly keep?: boolean }) => {
      if (built) runFromSource();
      const { runDemo }: DemoModule = await import(join(packageRoot, 'dev/demo/demo.ts'));
      await runDemo(cli, packageRoot, { keep });
    });
}

/**
 * Replaces this process, which runs from `dist`, by the same command from the sources of the checkout that holds `dist`.
 * @throws CliError USAGE in the package, which has no sources
 */
function runFromSource(): void {
  const main = join(packageRoot, 'src/cli/main.ts');
  if (!existsSync(main) || !existsSync(join(packageRoot, 'dev'))) {
    throw new CliError('USAGE', 'the demo needs a checkout of unpackd: run there npm ci, then npm run demo');
  }
  execve?.(process.execPath, [process.execPath, main, ...process.argv.slice(2)], process.env);
}
