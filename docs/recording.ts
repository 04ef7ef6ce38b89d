/**
 * Pictures of what a command printed (docs/start.txt, docs/lab.txt, recorded by hand), drawn as a terminal.
 */

const columnWidth = 7.83;
const lineHeight = 17;
const margin = 16;

const escapeXml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

function colour(line: string): string {
  if (/^\$ /.test(line)) return '#e6edf3';
  if (/every allocation/.test(line)) return '#7ee787';
  if (/^ +[\d.]+ s +git /.test(line)) return '#d2a8ff';
  if (/^ +[\d.]+ s/.test(line)) return '#a5d6ff';
  return '#9da7b3';
}

export function recordingSvg(text: string, title: string): string {
  const lines = text.trimEnd().split('\n');
  const width = Math.ceil(Math.max(...lines.map((line) => line.length)) * columnWidth + 2 * margin);
  const height = lines.length * lineHeight + 2 * margin;
  const rows = lines.map((line, row) => {
    const y = margin + (row + 0.8) * lineHeight;
    return `  <text x="${margin}" y="${y.toFixed(1)}" fill="${colour(line)}" xml:space="preserve">${escapeXml(line)}</text>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
    `  <title>${escapeXml(title)}</title>`,
    `  <rect width="${width}" height="${height}" rx="8" fill="#0d1117"/>`,
    '  <g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13">',
    ...rows,
    '  </g>',
    '</svg>',
    '',
  ].join('\n');
}
