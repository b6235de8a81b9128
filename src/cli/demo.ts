import { Command } from 'commander';
import type { Cli } from './context.ts';
import { CliError } from './failure.ts';
import { packageRoot } from './package-root.ts';

const HELP = `
What it does, in a temporary folder and on loopback only:
  1  starts a Redis (where there is none, uses REDIS_URL, or installs one with apt-get), an S3 server and a worker process
  2  makes an image of four layers out of what is on this machine and pushes it into a bucket
  3  adds a job and follows it to its end
  4  mounts the result and looks inside (needs root)
  5  adds the same job again
  6  damages a blob in the bucket and adds a job that needs it
It ends everything it started and removes everything it wrote, also after Ctrl-C.`;

/** `unpackd demo`. */
export function demoCommand(cli: Cli): Command {
  return new Command('demo')
    .description('Shows all of it on this machine, from an image in a bucket to a tree on disk.')
    .option('--keep', 'leave everything up, the board too, until Ctrl-C')
    .addHelpText('after', HELP)
    .action(async ({ keep }: { readonly keep?: true }) => {
      const { Demo } = await import('./demo-story.ts');
      const demo = new Demo(cli, packageRoot);
      try {
        await demo.tell();
        if (keep) await demo.stayUp();
      } catch (error) {
        // what could not be started says so in a plain sentence
        const plain = error instanceof Error && error.constructor === Error;
        throw plain ? new CliError('DEMO_FAILED', error.message, { cause: error }) : error;
      } finally {
        await demo.cleanUp();
      }
      if (!keep) cli.out.line('\nEverything is gone again. With --keep it stays up, with a web page to look at.');
    });
}
