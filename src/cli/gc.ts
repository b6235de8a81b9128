import { Command } from 'commander';
import { type Collected, Collector } from '../collector/collector.ts';
import { readContents } from '../collector/contents.ts';
import {
  amountOn,
  FREE_SPACE_SENTENCE,
  type FreeSpace,
  freeSpaceText,
  isNothing,
  missingOf,
  parseFreeSpace,
  plus,
} from '../collector/free-space.ts';
import { type Kept, planCollection, type Removal, type Unit } from '../collector/plan.ts';
import { amountText, unitName } from '../collector/plan-text.ts';
import type { Config } from '../config.ts';
import { printable } from '../printable.ts';
import type { Store, StoreReader } from '../snapshots/store.ts';
import { type Disk, diskOf } from '../system/space.ts';
import { ageText, bytesText, count } from '../units.ts';
import { CliError } from './explain-error.ts';
import { type Cli, LiveRegion, type Output } from './output.ts';
import { COLLECTOR_SETTINGS, configOf, STORE_SETTINGS, takesSettings } from './settings.ts';
import { refuseForContainerd, withReader, withStore } from './store-access.ts';
import { type Cell, type Column, table } from './table.ts';

const EXAMPLES = `
An image goes only if nobody uses it: it is not pinned (unpackd images pin), no job leases its layers, and they are not
mounted anywhere on this machine. Workers can run at the same time.

Examples:
  unpackd gc --dry-run --until 20%        what would go until 20% of the disk is free, and why the rest stays
  unpackd gc --until 50GiB
  unpackd gc --dry-run --until 99% --json | jq '.kept[] | select(.reason == "pinned")'`;

interface Options {
  readonly dryRun?: true;
  readonly until?: string;
}

/** `unpackd gc`: removes images until enough is free. */
export function gcCommand(cli: Cli): Command {
  const command = new Command('gc')
    .description('Removes the images that were not used for the longest time, until enough of the disk is free.')
    .option(
      '--until <free>',
      'stop when so much is free: a share of the disk (20%) or bytes (50GiB); default: UNPACK_GC_HIGH',
    )
    .option('--dry-run', 'remove nothing; show what would go, and why the rest stays')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES);
  takesSettings(command, [...STORE_SETTINGS, ...COLLECTOR_SETTINGS]);
  return command.action(async (options: Options) => {
    refuseForContainerd(
      command,
      'garbage collection',
      'unpackd images rm lets it collect an image, and the kubelet removes images that no pod uses (unpackd images pin keeps one)',
    );
    const until = untilOf(options, configOf(command));
    if (options.dryRun) await withReader(command, (store) => showPlan(store, until, cli));
    else await withStore(command, (store) => collect(store, until, cli), true);
  });
}

/** @throws CliError USAGE */
function untilOf({ until }: Options, { UNPACK_GC_HIGH: high }: Config): FreeSpace {
  if (until === undefined) {
    if (high !== undefined) return high;
    throw new CliError(
      'USAGE',
      'how much must be free is missing: write --until 20% or --until 50GiB, or set UNPACK_GC_LOW and UNPACK_GC_HIGH',
    );
  }
  const amount = parseFreeSpace(until.trim());
  if (amount === undefined) throw new CliError('USAGE', `--until=${JSON.stringify(until)}: ${FREE_SPACE_SENTENCE}`);
  return amount;
}

async function showPlan(store: StoreReader, until: FreeSpace, { out }: Cli): Promise<void> {
  const disk = await diskOf(store.root);
  const wanted = amountOn(disk, until);
  const contents = await readContents(store);
  const { removals, kept, frees } = planCollection(contents, missingOf(disk, wanted));
  const missing = missingOf(plus(disk, frees), wanted);
  const { unseen = null } = contents;
  out.result({ root: store.root, dryRun: true, unseen, disk, frees, missing, ...jsonOf(removals, kept) }, () => [
    `${freeText(disk)} on the disk of ${store.root}; wanted: ${freeSpaceText(until)}`,
    ...(unseen === null ? [] : [`nothing would be removed, because ${unseen}`]),
    ...list(
      `would remove ${count(removals.length, 'image')}, which frees ${amountText(frees)}`,
      removalRows(removals),
      out,
    ),
    ...list('would stay', keptRows(kept), out),
    ...(isNothing(missing) ? [] : ['', `${amountText(missing)} would still be missing`]),
  ]);
}

async function collect(store: Store, until: FreeSpace, { out, signal }: Cli): Promise<void> {
  const region = new LiveRegion(out.live);
  const collector = new Collector(store, undefined);
  const why = await collector.whyOff();
  if (why !== undefined) throw new CliError('MOUNTS_UNSEEN', `no image is removed, because ${why}`);
  let [images, bytes] = [0, 0];
  try {
    const collected = await collector.collect((disk) => missingOf(disk, amountOn(disk, until)), {
      why: `${freeSpaceText(until)} should be free`,
      signal,
      onWait: () => out.note('another process removes images from this store; waiting for it'),
      onRemoved: (removal) => {
        images += 1;
        bytes += removal.frees.bytes;
        region.clear();
        out.line(
          `removed ${printable(unitName(removal))}, last used ${ageText(removal.used)} ago: ${amountText(removal.frees)}`,
        );
        region.draw([`${count(images, 'image')}, ${bytesText(bytes)}; deleting files…`]);
      },
    });
    region.clear();
    const { removals, freed, disk, missing, plan } = collected;
    const document = { root: store.root, dryRun: false, disk, freed, missing, ...jsonOf(removals, plan?.kept ?? []) };
    out.result(document, () => resultText(collected, until, out));
  } finally {
    region.clear();
  }
}

function resultText({ removals, disk, missing, plan }: Collected, until: FreeSpace, out: Output): string[] {
  if (removals.length === 0 && isNothing(missing)) {
    return [`nothing to remove: ${freeText(disk)}, and ${freeSpaceText(until)} is wanted`];
  }
  const done = `removed ${count(removals.length, 'image')}; ${freeText(disk)}`;
  if (isNothing(missing)) return [done];
  return [
    `${done}, ${amountText(missing)} less than wanted`,
    ...list('nothing more can go', keptRows(plan?.kept ?? []), out),
  ];
}

function freeText({ bytes, totalBytes }: Disk): string {
  return `${bytesText(bytes)} of ${bytesText(totalBytes)} is free`;
}

const COLUMNS: readonly Column[] = [
  { title: 'IMAGE', cut: 'middle', least: 20 },
  { title: 'LAST USED' },
  { title: '', cut: 'end', least: 20 },
];

function list(title: string, rows: readonly (readonly Cell[])[], out: Output): string[] {
  return rows.length === 0 ? [] : ['', `${title}:`, ...table(COLUMNS, rows, out.width)];
}

function removalRows(removals: readonly Removal[]): Cell[][] {
  return removals.map((removal) => [unitName(removal), `${ageText(removal.used)} ago`, amountText(removal.frees)]);
}

function keptRows(kept: readonly Kept[]): Cell[][] {
  return kept.map((unit) => [unitName(unit), `${ageText(unit.used)} ago`, unit.why]);
}

function jsonOf(removals: readonly Removal[], kept: readonly Kept[]) {
  const unit = ({ top, images, used }: Unit) => ({
    images: images.map(({ reference, platform, pinned }) => ({ reference, platform, pinned })),
    chainId: top,
    used,
  });
  return {
    removals: removals.map((removal) => ({ ...unit(removal), snapshots: removal.layers, frees: removal.frees })),
    kept: kept.map((one) => ({ ...unit(one), reason: one.reason, why: one.why })),
  };
}
