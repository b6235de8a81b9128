import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseFilters } from '../../src/proxy/filter.ts';
import { isSnapshotError } from '../../src/snapshots/snapshotter.ts';

interface Thing {
  readonly name: string;
  readonly other?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const THINGS: readonly Thing[] = [
  { name: 'a', labels: { foo: 'true' } },
  { name: 'b', other: 'too complex, yo' },
  { name: 'c', labels: { foo: 'present', 'more complex': '1', 'containerd.io/snapshot.ref': 'sha256:1' } },
  { name: 'd', labels: { bar: 'x_y.z-1' } },
  { name: 'e', labels: { 'with \\ and "': '1', 'with \\ and ".post': '2' } },
  { name: 'ä', other: 'abc' },
];

/** The names of the things that match, without spaces. */
function chosen(...filters: string[]): string {
  const { matches } = parseFilters(filters);
  return THINGS.filter(({ name, other, labels = {} }) =>
    matches(([field, ...rest]) => {
      if (field === 'name') return name;
      if (field === 'other') return other;
      return field === 'labels' ? labels[rest.join('.')] : undefined;
    }),
  )
    .map(({ name }) => name)
    .join('');
}

const ALL = THINGS.map(({ name }) => name).join('');

describe("containerd's filters", () => {
  for (const [sentence, filters, expected] of [
    ['no filter matches everything', [], ALL],
    ['an empty filter matches everything', [''], ALL],
    ['a field alone must be there', ['other'], 'bä'],
    ['a label alone must be there', ['labels.foo'], 'ac'],
    ['an unknown field is not there', ['kind'], ''],
    ['== compares the whole value', ['name==a'], 'a'],
    ['a word may have punctuation', ['labels.bar==x_y.z-1'], 'd'],
    ['a word ends at a space or a comma', ['labels.foo==true,name==a'], 'a'],
    ['spaces around an operator mean nothing', ['name == a'], 'a'],
    ['== of an absent field never matches', ['other==""'], ''],
    ['!= matches what has another value', ['labels.foo!=true'], 'bcdeä'],
    ['an absent field is not different from an empty value', ['other!=""'], 'bä'],
    ['a comma means and', ['labels.foo,name!=a'], 'c'],
    ['several filters mean or', ['name==a', 'labels.bar', 'name==a'], 'ad'],
    ['a value in quotes may have spaces and commas', ['other=="too complex, yo"'], 'b'],
    ['a quoted key may have dots and slashes', ['labels."containerd.io/snapshot.ref"==sha256:1'], 'c'],
    ['the filter of containerd for a layer', ['labels."containerd.io/snapshot.ref"==sha256:1,other!="sha256:2"'], 'c'],
    ['escapes in quotes are those of Go', ['labels."with \\\\ and \\""'], 'e'],
    ['parts of a quoted path are joined by dots', ['labels."with \\\\ and \\"".post==2'], 'e'],
    ['bytes in escapes are UTF-8', ['name=="\\xc3\\xa4"', 'name=="\\141"'], 'aä'],
    ['escapes of code points', ['name=="\\u00e4"', 'name=="\\U00000061"'], 'aä'],
    ['~= matches a part of the value', ['name~=[ab]', 'other~=b'], 'abä'],
    ['~= may have anchors', ['other~=^abc$'], 'ä'],
    ['~= may have slashes or bars as quotes', ['other~=/o{2}, |^a/', 'name~=|^e|'], 'eä'],
    ['~= may have the flags of Go', ['other~=(?i)ABC'], 'ä'],
    ['~= may escape punctuation as Go does', ['labels.bar~=^x_y\\.z\\-1$'], 'd'],
    ['an absent field is empty for ~=', ['other~=^$'], 'acde'],
    ['an expression that cannot be compiled matches nothing', ['name~=/(/'], ''],
  ] as const) {
    test(sentence, () => assert.equal(chosen(...filters), expected));
  }

  test('a value that every match must have is known', () => {
    const required = (...filters: string[]) => parseFilters(filters).required('parent');
    assert.equal(required('labels.foo,parent=="a/1/b"'), 'a/1/b');
    assert.equal(required('parent==""'), '');
    for (const filters of [[], [''], ['parent!=a'], ['parent'], ['parent.x==a'], ['parent==a', 'parent==b']]) {
      assert.equal(required(...filters), undefined);
    }
  });

  for (const [sentence, filter, message] of [
    ['a comma at the end', 'name==a,', /it has no name of a field/],
    ['a dot at the end', 'labels.', /it has no name of a field/],
    ['no value', 'name==,other', /it has no value/],
    ['no value at the end', 'name==', /it has no value/],
    ['a space before a comma', 'name==a ,other', /character 8 of the filter .* it has " " where a comma belongs/],
    ['two fields', 'name other', /it has no operator/],
    ['an unknown operator', 'name=a', /it has the unknown operator =/],
    ['a long operator', 'name===a', /it has the unknown operator ===/],
    ['a sign that needs quotes', 'labels.?==a', /character 8 .* "\?", which needs quotes/],
    ['a quote without its end', 'labels.key=="value', /it has a quote without its end/],
    ['a label with a slash and no quotes', 'labels.ns/key==value', /it has a quote without its end/],
    ['bars as quotes of a key', 'labels.|foo|==a', /the quote \|, which only ~= may have/],
    ['slashes as quotes of a value', 'name==/a/', /the quote \/, which only ~= may have/],
    ['an escape that Go does not know', 'name=="\\."', /it has an escape that Go does not know/],
    ['the escape of another quote', 'name=="\\/"', /it has an escape that Go does not know/],
    ['a byte above 255', 'name=="\\777"', /it has an escape that Go does not know/],
    ['a code point that does not exist', 'name=="\\U00110000"', /it has an escape that Go does not know/],
  ] as const) {
    test(`${sentence} is refused`, () =>
      assert.throws(
        () => parseFilters([filter]),
        (error) => isSnapshotError(error, 'InvalidArgument') && message.test(error.message),
      ));
  }
});
