import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Column, table } from '../../src/cli/table.ts';
import { cutText, textWidth } from '../../src/cli/terminal-text.ts';
import { printable } from '../../src/printable.ts';

const COLUMNS: readonly Column[] = [
  { title: 'NAME', cut: 'middle', least: 10 },
  { title: 'SIZE', align: 'right' },
  { title: 'DIGEST', cut: 'end' },
];
const ROW = ['registry.example.com/team/app:1.0', '12 MiB', '0123456789ab'];

describe('a table', () => {
  test('is as wide as its texts if nothing limits it', () => {
    assert.deepEqual(table(COLUMNS, [ROW]), [
      'NAME                                 SIZE  DIGEST',
      'registry.example.com/team/app:1.0  12 MiB  0123456789ab',
    ]);
  });

  test('cuts the widest column first, and no line is wider than the terminal', () => {
    assert.deepEqual(table(COLUMNS, [ROW], 40), [
      'NAME                  SIZE  DIGEST',
      'registry.…/app:1.0  12 MiB  0123456789ab',
    ]);
    for (let width = 1; width < 60; width += 1) {
      for (const line of table(COLUMNS, [ROW], width)) assert.ok(textWidth(line) <= width, `${width}: ${line}`);
    }
  });

  test('keeps the columns that must not be cut as long as there is room', () => {
    assert.match(table(COLUMNS, [ROW], 16)[1] ?? '', /^\S…\S {2}12 MiB {2}01…$/);
  });

  test('counts wide characters twice and combining ones not at all', () => {
    assert.deepEqual([textWidth('日本'), textWidth('e\u0301'), textWidth('🙂'), textWidth('é')], [4, 1, 2, 1]);
    const [, line = ''] = table(COLUMNS, [['日本語の名前です', '1 B', 'x']], 24);
    assert.equal(textWidth(line.slice(0, line.indexOf('1 B'))), 13);
  });
});

describe('a text of others', () => {
  test('is shown with escapes instead of control characters', () => {
    assert.equal(printable('a\u001b[2J\n\u202eb\u0000'), 'a\\u{1b}[2J\\u{a}\\u{202e}b\\u{0}');
    assert.equal(printable('\ud800'), '\\u{d800}');
    assert.equal(printable('日本 é 🙂'), '日本 é 🙂');
  });

  test('is cut between whole characters', () => {
    assert.equal(cutText('e\u0301e\u0301e\u0301', 2), 'e\u0301…');
    assert.equal(cutText('日本語', 4), '日…');
    assert.equal(cutText('日本語', 5, 'middle'), '日…語');
    assert.equal(cutText('abc', 3), 'abc');
    assert.equal(cutText('abcdef', 1, 'middle'), '…');
  });
});
