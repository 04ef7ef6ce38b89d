/** Kernel modules of the lab's images, as they are written into them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadInOrder, unsignedModule } from '../../agent/drivers/qemu/images/modules.ts';

const end = '~Module signature appended~\n';

function signed(module: string, signature: string, says = signature.length): Buffer {
  const info = Buffer.alloc(12);
  info.writeUInt32BE(says, 8);
  return Buffer.concat([Buffer.from(module), Buffer.from(signature), info, Buffer.from(end)]);
}

test('a module loses its signature and nothing else', () => {
  assert.equal(unsignedModule(signed('ELF...', 'x'.repeat(300))).toString(), 'ELF...');
  for (const whole of ['', 'ELF', 'ELF'.repeat(100), end]) {
    assert.equal(unsignedModule(Buffer.from(whole)).toString(), whole);
  }
});

test('a signature that is longer than its module is refused', () => {
  assert.throws(() => unsignedModule(signed('ELF', 'x', 5)), /says that 5 of them/);
});

test('modprobe takes what a module needs from the end of its line', () => {
  assert.equal(loadInOrder(['a', 'b', 'c']), 'a.ko:\nb.ko: a.ko\nc.ko: b.ko a.ko\n');
});
