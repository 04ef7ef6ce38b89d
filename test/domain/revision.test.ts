import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ComputeEnvironmentSpec } from '../../controller/api/types.generated.ts';
import { canonicalJson, environmentFrom, RevisionError, revisionOf } from '../../controller/domain/revision.ts';

const spec = (change: (spec: ComputeEnvironmentSpec) => void = () => {}): ComputeEnvironmentSpec => {
  const value: ComputeEnvironmentSpec = {
    os: { family: 'Linux', name: 'Rocky Linux', version: '9.6', architecture: 'x86_64' },
    image: { url: 'https://images.example/rocky.raw', format: 'Raw', size: '32Gi', sha256: 'ab'.repeat(32) },
    boot: { firmware: 'Uefi', kernelArguments: ['nohz_full=1-15', 'isolcpus=1-15'], localArguments: 'GrubEnvironment' },
    userData: { format: 'CloudInit', inline: '#cloud-config\n' },
    install: { maxRate: '100M', yield: 'Fair', disk: { media: 'NVMe' } },
    vmm: { dataPorts: 'Passthrough' },
    requirements: { minCores: 12 },
    allowedNamespaces: { from: 'Same' },
  };
  change(value);
  return value;
};

test('what changes what a node runs changes the revision, and nothing else does', () => {
  const base = revisionOf(spec()).revision;
  assert.match(base, /^[0-9a-f]{16}$/);
  const differs: ((s: ComputeEnvironmentSpec) => void)[] = [
    (s) => {
      s.os.family = 'Other';
    },
    (s) => {
      s.os.architecture = 'aarch64';
    },
    (s) => {
      s.image.format = 'Qcow2';
    },
    (s) => {
      s.image.size = '33Gi';
    },
    (s) => {
      s.image.sha256 = 'cd'.repeat(32);
    },
    (s) => {
      s.boot.firmware = 'Bios';
    },
    (s) => {
      s.boot.kernelArguments?.reverse();
    },
    (s) => {
      s.boot.localArguments = 'InImage';
    },
    (s) => {
      delete s.userData;
    },
    (s) => {
      delete s.install.maxRate;
    },
    (s) => {
      s.install.yield = 'None';
    },
    (s) => {
      s.install.disk.media = 'SSD';
    },
    (s) => {
      s.install.disk.minSize = '64Gi';
    },
    (s) => {
      s.vmm.dataPorts = 'Mediated';
    },
  ];
  const revisions = differs.map((change) => revisionOf(spec(change)).revision);
  assert.equal(new Set([base, ...revisions]).size, differs.length + 1);
  const same: ((s: ComputeEnvironmentSpec) => void)[] = [
    (s) => {
      s.image.url = 'https://mirror.example/rocky.raw';
    },
    (s) => {
      s.image.size = String(32 * 2 ** 30);
    },
    (s) => {
      s.install.disk.minSize = '1Gi';
    },
    (s) => {
      s.os.name = 'Rocky';
    },
    (s) => {
      delete s.os.version;
    },
    (s) => {
      s.requirements.minCores = 1;
    },
    (s) => {
      s.allowedNamespaces = { from: 'All' };
    },
  ];
  for (const change of same) assert.equal(revisionOf(spec(change)).revision, base, change.toString());
});

test('a stored definition gives the environment back, with its URL', () => {
  const stored = revisionOf(spec());
  const environment = environmentFrom(stored);
  assert.equal(environment.revision, stored.revision);
  assert.equal(environment.image.url, 'https://images.example/rocky.raw');
  assert.deepEqual(environment.install, {
    maxRateBytes: 100_000_000,
    yield: 'Fair',
    disk: { media: 'NVMe', minSizeBytes: 32 * 2 ** 30 },
  });
  const moved = revisionOf(
    spec((s) => {
      s.image.url = 'https://mirror.example/rocky.raw';
    }),
  );
  assert.equal(environmentFrom(moved).image.url, 'https://mirror.example/rocky.raw');
});

test('a definition that was changed is not believed', () => {
  const { revision, definition } = revisionOf(spec());
  const refused = (text: string, reason: RegExp): void =>
    assert.throws(
      () => environmentFrom({ revision, definition: text }),
      (error) => error instanceof RevisionError && reason.test(error.message),
    );
  refused(definition.replace('Fair', 'None'), /was changed/);
  refused(definition.replace('{', '{"extra":1,'), /was changed/);
  refused('{"image":{}}', /has no image/);
  refused('null', /has no image/);
  refused('{', /not JSON/);
});

test('canonical JSON does not depend on the order of keys', () => {
  assert.equal(
    canonicalJson({ b: [1, { d: null, c: 'é"' }], a: undefined, A: true }),
    '{"A":true,"b":[1,{"c":"é\\"","d":null}]}',
  );
  assert.equal(canonicalJson({ x: 1, y: 2 }), canonicalJson({ y: 2, x: 1 }));
});
