import { writeFile } from 'node:fs/promises';
import { extname } from 'node:path';
import type { Command } from 'commander';
import type { UnpackResult } from '../queue/result.ts';
import { CliError } from './failure.ts';

export interface TimelineOption {
  readonly timeline?: string;
}

export function takesTimeline(command: Command): Command {
  return command.option('--timeline <file.svg>', 'draw when each layer was fetched, inflated, written and committed');
}

/** Refuses a name that no viewer would open, before there is any work to lose. @throws CliError USAGE */
export function checkTimelineName(file: string | undefined): void {
  if (file !== undefined && extname(file) !== '.svg')
    throw new CliError('USAGE', `--timeline ${file}: the picture is an SVG, so give a name that ends with .svg`);
}

/** @throws CliError when the file can't be written */
export async function writeTimeline(file: string, result: UnpackResult): Promise<void> {
  const { timelineSvg } = await import('./timeline-svg.ts');
  await writeFile(file, timelineSvg(result)).catch((error: Error) => {
    throw new CliError('USAGE', `the timeline could not be written: ${error.message}`);
  });
}
