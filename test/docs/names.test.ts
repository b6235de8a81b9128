import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';
import { SETTINGS } from '../../src/config.ts';
import { runCli } from '../cli/run-cli.ts';

/**
 * Everything that README.md and docs/ name must exist: files, anchors, npm scripts, commands with their flags, settings.
 * Links and source files are checked in the README files of the folders, too.
 */
const root = join(import.meta.dirname, '../..');
const pages = ['README.md', ...globSync('docs/*.md', { cwd: root }).sort()];
const folderPages = globSync('{src,dev,bench,test}/**/README.md', { cwd: root }).sort();
const text = (page: string): string => readFileSync(join(root, page), 'utf8');

const SOURCES = '{src,workers,dev,bench,test,schemas}';
const sourceFiles = [...globSync(`${SOURCES}/**/*`, { cwd: root }), ...globSync('*.ts', { cwd: root })];

test('README.md has at most 150 lines', () => {
  const lines = text('README.md').trimEnd().split('\n').length;
  assert.ok(lines <= 150, `it has ${lines}`);
});

test('docs/architecture.md lists every folder of the code', () => {
  const architecture = text('docs/architecture.md');
  const folders = globSync('src/*', { cwd: root }).filter((name) => statSync(join(root, name)).isDirectory());
  for (const folder of [...folders, 'workers', 'dev', 'bench', 'test']) {
    assert.match(architecture, new RegExp(`^ {4}${folder}/ `, 'm'), folder);
  }
});

for (const page of [...pages, ...folderPages]) {
  test(`every link in ${page} leads to a file, and to a heading where it names one`, () => {
    for (const [, link = ''] of prose(text(page)).matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      const [file = '', anchor] = link.split('#');
      const target = file === '' ? page : relative(root, join(root, dirname(page), file));
      assert.ok(existsSync(join(root, target)), `${link}: there is no ${target}`);
      if (anchor !== undefined)
        assert.ok(anchorsOf(text(target)).includes(anchor), `${link}: ${target} has no such heading`);
    }
  });
}

for (const page of [...pages, ...folderPages]) {
  test(`every source file that ${page} names exists`, () => {
    for (const [path] of text(page).matchAll(/(?<![\w./-])[\w./-]+\.ts\b/g)) {
      const name = path.replace(/^(\.\.\/)+/, '');
      const found = sourceFiles.some((file) => file === name || file.endsWith(`/${name}`));
      assert.ok(found, path);
    }
  });
}

for (const page of pages) {
  test(`every file and folder that ${page} names exists`, () => {
    const paths = text(page).matchAll(/(?<![\w./:-])(?:src|workers|dev|bench|test|docs|schemas|\.ci)\/[\w./-]*/g);
    for (const [path] of paths) {
      const name = path.replace(/[.,:]+$/, '');
      assert.ok(existsSync(join(root, name)), name);
    }
  });

  test(`every npm script that ${page} names exists`, () => {
    const { scripts }: { scripts: Record<string, string> } = JSON.parse(text('package.json'));
    for (const [, name = ''] of text(page).matchAll(/npm run (?:--silent )?([\w:-]+)/g)) {
      assert.ok(name in scripts, `npm run ${name}`);
    }
  });

  test(`every setting that ${page} names exists`, () => {
    for (const [name] of text(page).matchAll(/\bUNPACK_[A-Z0-9_]*[A-Z0-9]\b/g)) assert.ok(name in SETTINGS, name);
  });

  test(`every unpackd command that ${page} names exists, with its flags`, async () => {
    for (const { words, flags } of commandsOf(text(page))) {
      const [command = '', second = ''] = words;
      assert.ok(lists(await help(), command), `unpackd ${command}`);
      let usage = await help(command);
      if (usage.includes('\nCommands:') && second !== '') {
        assert.ok(lists(usage, second), `unpackd ${command} ${second}`);
        usage = await help(command, second);
      }
      for (const flag of flags) assert.match(usage, new RegExp(`${flag}\\b`), `unpackd ${words.join(' ')} ${flag}`);
    }
  });
}

interface NamedCommand {
  /** The first two words after `unpackd`. */
  readonly words: readonly string[];
  readonly flags: readonly string[];
}

/** Commands in code spans and in code blocks. */
function commandsOf(page: string): NamedCommand[] {
  const blocks = [...page.matchAll(/^```\w*\n([\s\S]*?)^```/gm)].flatMap(([, block = '']) => block.split('\n'));
  const spans = [...prose(page).matchAll(/`([^`\n]+)`/g)].map(([, span = '']) => span);
  return [...blocks, ...spans].flatMap((line) =>
    [...line.matchAll(/(?:^|[ '(])unpackd ([a-z][^|&;#']*)/g)].map(([, rest = '']) => ({
      words: rest
        .split(/\s+/)
        .slice(0, 2)
        .filter((word) => /^[a-z-]+$/.test(word)),
      flags: rest.match(/(?<=\s)--[a-z-]+/g) ?? [],
    })),
  );
}

const lists = (usage: string, command: string): boolean =>
  new RegExp(`^ {2}${command}\\b`, 'm').test(usage.slice(usage.indexOf('\nCommands:')));

const shown = new Map<string, Promise<string>>();

/** What `unpackd COMMAND --help` prints; each command is asked once. */
function help(...command: readonly string[]): Promise<string> {
  const key = command.join(' ');
  const usage = shown.get(key) ?? runCli([...command, '--help']).then(({ stdout }) => stdout);
  shown.set(key, usage);
  return usage;
}

/** A page without its code blocks. */
function prose(page: string): string {
  return page.replace(/^```[\s\S]*?^```/gm, '');
}

/** The anchors that GitHub makes of the headings: lower case, without punctuation, a hyphen for each space. */
function anchorsOf(page: string): string[] {
  return [...prose(page).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-'),
  );
}
