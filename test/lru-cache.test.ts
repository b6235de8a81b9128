import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LruCache } from '../src/lru-cache.ts';

describe('the LRU cache', () => {
  const kept = (all: LruCache<string>, keys: string) => [...keys].filter((key) => all.get(key) !== undefined).join('');

  it('evicts the least recently used value first', () => {
    const all = new LruCache<string>(3);
    for (const key of 'abc') all.add(key, key);
    assert.equal(all.get('a'), 'a');
    all.add('d', 'd');
    assert.equal(kept(all, 'abcd'), 'acd');
    all.add('e', 'e');
    assert.equal(kept(all, 'abcde'), 'cde');
  });

  it('limits the sum of the weights', () => {
    const all = new LruCache<string>(10, ({ length }) => length);
    all.add('a', '1234');
    all.add('b', '12345');
    all.add('c', '12');
    assert.equal(kept(all, 'abc'), 'bc');
    all.add('d', '1234567890');
    assert.equal(kept(all, 'abcd'), 'd');
    all.add('e', '12345678901');
    assert.equal(kept(all, 'abcde'), '');
    all.add('f', '1234567890');
    assert.equal(kept(all, 'f'), 'f');
  });

  it('keeps the first value of a key until it is cleared', () => {
    const all = new LruCache<string>(2);
    all.add('a', 'first');
    all.add('a', 'second');
    all.add('b', 'b');
    assert.equal(all.get('a'), 'first');
    all.clear();
    assert.equal(kept(all, 'ab'), '');
    for (const key of 'cd') all.add(key, key);
    assert.equal(kept(all, 'cd'), 'cd');
  });
});
