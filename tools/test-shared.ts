/**
 * Loads the test files that share one process (see tools/test.ts, which names them in SHARED_TEST_FILES).
 */
import process from 'node:process';

for (const file of (process.env.SHARED_TEST_FILES ?? '').split('\n').filter(Boolean)) {
  await import(new URL(`../${file}`, import.meta.url).href);
}
