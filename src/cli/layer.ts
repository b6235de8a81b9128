import { once } from 'node:events';
import { Command } from 'commander';
import { layerLimits } from '../config.ts';
import type { EntryPair } from '../inspect/compare-layers.ts';
import { changedFields, entryFields, escaped, fieldText } from '../inspect/entry-fields.ts';
import { type LayerTotals, type ReadEntry, readLayer } from '../inspect/read-layer.ts';
import { EXIT_FAILED, EXIT_USAGE, explain } from './explain-error.ts';
import { type LayerFile, openLayer, parseLayerArgument, verifyLayer } from './layer-argument.ts';
import { countKinds, entryLines, totalsLines } from './layer-view.ts';
import type { Cli } from './output.ts';
import { configOf, takesSettings } from './settings.ts';

const LIMIT_SETTINGS = ['UNPACK_MAX_LAYER_BYTES', 'UNPACK_MAX_LAYER_ENTRIES', 'UNPACK_MAX_ENTRY_METADATA'] as const;

const BLOB = `
BLOB is a file, compressed with gzip or zstd or not at all, or a blob of an OCI image layout: LAYOUT@sha256:…`;

const LS_HELP = `${BLOB}

Each line is one entry, in the order of the tar, as unpackd would write it:

  - 4755 0:0                 31768 2024-03-01T10:00:00.123456789Z usr/bin/su
  │ │    │                       │ │                              └ name; bytes that are not printable as \\xNN
  │ │    │                       │ └ modification time, to the nanosecond
  │ │    │                       └ size of a file in bytes, numbers of a device
  │ │    └ owner and group
  │ └ mode
  └ - file, d directory, l symbolic link, h hard link, c b devices, p FIFO, w whiteout

Indented lines below an entry show extended attributes, an access time that differs from the modification time, and with
--contents the digest of the data of a file. The last lines show the number of entries and the digests of the tar (the
DiffID) and of the blob.

--json prints one document, {"entries": […], "totals": {…}}, with one entry a line. If the layer is damaged, it has "error"
instead of "totals".

Examples:
  unpackd layer ls layer.tar.gz
  unpackd layer ls ./layout@sha256:4f2a… | grep '^w'                  the whiteouts of a layer
  unpackd layer ls layer.tar.zst --json | jq '.entries[] | select(.xattrs)'`;

const DIFF_HELP = `${BLOB}

Each line is one entry that differs: - only in A, + only in B, ~ in both, with the fields that differ. Contents are compared
by their digests. Compression, the format of the tar headers and the order of the entries do not count as differences; another
order is reported. If a name has several entries, the first is compared with the first, the second with the second, and so on.

Exit status: 0 no difference, 1 differences, 2 wrong use, or a layer that cannot be read.

Examples:
  unpackd layer diff built-here.tar built-there.tar.gz
  unpackd layer diff ./a@sha256:4f2a… ./b@sha256:97c0… --json | jq -r '.differences[].name'`;

interface ListOptions {
  readonly contents?: true;
}

/** `unpackd layer ls` and `unpackd layer diff`: shows and compares layers without unpacking them. */
export function layerCommand(cli: Cli): Command {
  const group = new Command('layer').description(
    'Shows the contents of layers, without a store and without writing anything.',
  );
  const add = (name: string, description: string, help: string) => {
    const command = group.command(name).description(description).option('--json', 'print one JSON document');
    return takesSettings(command.addHelpText('after', help), LIMIT_SETTINGS);
  };
  const ls = add('ls', 'List the entries of a layer exactly, then totals and digests.', LS_HELP)
    .argument('<blob>')
    .option('--contents', 'show the digest of the content of every file')
    .action((blob: string, options: ListOptions) => list(ls, blob, options, cli));
  const diff = add('diff', 'Compare two layers, entry by entry.', DIFF_HELP)
    .argument('<a>')
    .argument('<b>')
    .action((a: string, b: string) => compare(diff, a, b, cli));
  return group;
}

async function list(command: Command, argument: string, { contents }: ListOptions, cli: Cli): Promise<void> {
  const file = await parseLayerArgument(argument);
  const output = new ListOutput(cli, 'entries');
  const kinds = new Map<string, number>();
  try {
    const layer = entriesOf(command, file, contents === true, cli);
    for (;;) {
      const next = await layer.next();
      if (next.done) {
        verifyLayer(file, next.value.blob.digest);
        await output.end({ totals: { ...next.value, kinds: Object.fromEntries(kinds) } }, [
          '',
          ...totalsLines(next.value, kinds),
        ]);
        return;
      }
      countKinds(kinds, next.value);
      for (const entry of next.value) output.add(entryFields(entry), entryLines(entry));
      if (!(await output.flush())) return;
    }
  } catch (error) {
    await output.fail(error, EXIT_FAILED);
  }
}

async function compare(command: Command, a: string, b: string, cli: Cli): Promise<void> {
  const output = new ListOutput(cli, 'differences');
  try {
    const { pairEntries } = await import('../inspect/compare-layers.ts');
    const files = [await parseLayerArgument(a), await parseLayerArgument(b)] as const;
    const pairs = pairEntries(entriesOf(command, files[0], true, cli), entriesOf(command, files[1], true, cli));
    let count = 0;
    for (;;) {
      const next = await pairs.next();
      if (next.done) {
        const { value } = next;
        verifyLayer(files[0], value.a.blob.digest);
        verifyLayer(files[1], value.b.blob.digest);
        await output.end({ same: count === 0, sameOrder: value.sameOrder, a: value.a, b: value.b }, [
          verdict(count, value.a, value.b, value.sameOrder),
        ]);
        return;
      }
      const difference = differenceOf(next.value);
      if (difference === undefined) continue;
      count++;
      output.add(difference.fields, [difference.line]);
      process.exitCode = EXIT_FAILED;
      if (!(await output.flush())) return;
    }
  } catch (error) {
    // exit status 1 would mean that the layers differ
    await output.fail(error, EXIT_USAGE);
  }
}

function entriesOf(
  command: Command,
  file: LayerFile,
  contents: boolean,
  { signal }: Cli,
): AsyncGenerator<readonly ReadEntry[], LayerTotals, undefined> {
  const limits = layerLimits(configOf(command));
  return readLayer(openLayer(file, signal), { limits, algorithm: file.algorithm, contents, signal });
}

/** The line and the JSON of a pair that differs; `undefined` if it does not differ. */
function differenceOf(pair: EntryPair): { readonly fields: object; readonly line: string } | undefined {
  if (pair.kind === 'only') {
    const fields = entryFields(pair.entry);
    const mark = pair.side === 'a' ? '-' : '+';
    return { fields: { name: fields.name, only: pair.side }, line: `${mark} ${fields.name}` };
  }
  const changes = changedFields(pair.a, pair.b);
  if (changes.length === 0) return undefined;
  const name = escaped(pair.a.entry.name);
  const words = changes.map(({ field, a, b }) => `${field} ${fieldText(a)} → ${fieldText(b)}`).join(', ');
  const fields = Object.fromEntries(changes.map(({ field, a, b }) => [field, { a: a ?? null, b: b ?? null }]));
  return { fields: { name, changed: fields }, line: `~ ${name}: ${words}` };
}

function verdict(count: number, a: LayerTotals, b: LayerTotals, sameOrder: boolean): string {
  if (count > 0) return count === 1 ? '1 entry differs' : `${count.toLocaleString('en-US')} entries differ`;
  const order = sameOrder ? '' : ', in another order';
  if (a.blob.digest === b.blob.digest) return `the same blob, ${a.blob.digest}`;
  if (a.tar.digest === b.tar.digest) return `the same tar, ${a.tar.digest}`;
  return `the same ${a.entries.toLocaleString('en-US')} entries${order}; the tars are written in different ways`;
}

/** Prints a long list, one item a line, as text or as one JSON document. Only one batch of it is in memory. */
class ListOutput {
  readonly #cli: Cli;
  readonly #name: string;
  #lines: string[] = [];
  #begun = false;

  constructor(cli: Cli, name: string) {
    this.#cli = cli;
    this.#name = name;
  }

  add(document: object, text: readonly string[]): void {
    if (!this.#cli.out.json) this.#lines.push(...text);
    else this.#lines.push(`${this.#begun ? ',\n' : `{"${this.#name}": [\n`}${JSON.stringify(document)}`);
    this.#begun = true;
  }

  /** @returns false if the reader has closed the pipe, as in `unpackd layer ls BLOB | head` */
  async flush(): Promise<boolean> {
    const text = this.#cli.out.json ? this.#lines.join('') : this.#lines.map((line) => `${line}\n`).join('');
    this.#lines = [];
    try {
      if (text !== '' && !process.stdout.write(text)) await once(process.stdout, 'drain', { signal: this.#cli.signal });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error;
    }
    return !process.stdout.destroyed;
  }

  /** Closes the list and prints what follows it. */
  async end(document: object, text: readonly string[]): Promise<void> {
    if (this.#cli.out.json) this.#lines.push(this.#tail(document));
    else this.#lines.push(...text);
    await this.flush();
  }

  /** Prints the failure. A JSON list that has begun is closed, so that a program can parse it. */
  async fail(error: unknown, exitStatus: number): Promise<void> {
    if (this.#cli.signal.aborted) throw error;
    const { code, message, exitStatus: usual } = explain(error);
    await this.end({ error: { code, message } }, []);
    this.#cli.out.note(`unpackd: [${code}] ${message}`);
    process.exitCode = Math.max(exitStatus, usual);
  }

  #tail(document: object): string {
    const rest = JSON.stringify(document).slice(1);
    if (this.#begun) return `\n], ${rest}\n`;
    return 'error' in document ? `{${rest}\n` : `{"${this.#name}": [], ${rest}\n`;
  }
}
