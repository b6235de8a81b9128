import { writeFile } from 'node:fs/promises';
import { extname } from 'node:path';
import type { Command } from 'commander';
import { timelineSvg } from '../charts/timeline.ts';
import type { UnpackResult } from '../queue/formats.ts';
import { CliError } from './explain-error.ts';

/** The option `--timeline FILE.svg` of `apply`, `enqueue` and `status`. `src/charts/timeline.ts` draws the picture. */

export interface TimelineOption {
  readonly timeline?: string;
}

export function takesTimeline(command: Command): Command {
  return command.option(
    '--timeline <file.svg>',
    'write a picture of when each layer was fetched, inflated, written and committed',
  );
}

/** Refuses a file name without .svg, before any work is done. @throws CliError USAGE */
export function checkTimelineName(file: string | undefined): void {
  if (file !== undefined && extname(file) !== '.svg')
    throw new CliError('USAGE', `--timeline ${file}: the picture is SVG, so give a name that ends with .svg`);
}

/** Draws the timeline into a file. @throws CliError if it cannot be written */
export async function writeTimeline(file: string, result: UnpackResult): Promise<void> {
  await writeFile(file, timelineSvg(result)).catch((error: Error) => {
    throw new CliError('USAGE', `the timeline cannot be written: ${error.message}`);
  });
}
