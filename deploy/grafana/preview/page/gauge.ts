// What Grafana's gauge draws with: `$.plot` of jQuery, which Grafana has in its own tree and in no package.

import $ from 'jquery';

interface Gauge {
  gauge: { min: number; max: number; background: { color: string }; width: number };
  threshold: { show: boolean; width: number; values: Array<{ value: number; color: string }> };
  value: { color: string; formatter: () => string; font: { size: number; family: string } };
}

const START = 0.9 * Math.PI;
const END = 2.1 * Math.PI;

function plot(
  element: HTMLElement,
  [{ data }]: Array<{ data: Array<[number, number]> }>,
  { series: { gauges } }: { series: { gauges: Gauge } }
) {
  const { gauge, threshold, value } = gauges;
  const { clientWidth: width, clientHeight: height } = element;
  const ratio = window.devicePixelRatio;
  const canvas = document.createElement('canvas');
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  element.replaceChildren(canvas);
  const draw = canvas.getContext('2d')!;
  draw.scale(ratio, ratio);

  // The arc ends below its centre.
  const deep = 1 + Math.sin(END);
  const radius = Math.min(width / 2, height / deep);
  const centre = { x: width / 2, y: (height - radius * deep) / 2 + radius };
  const angle = (of: number) => {
    const part = (of - gauge.min) / (gauge.max - gauge.min);
    return START + (END - START) * Math.min(Math.max(part, 0), 1);
  };
  const arc = (outer: number, thick: number, from: number, to: number, color: string) => {
    draw.beginPath();
    draw.arc(centre.x, centre.y, outer - thick / 2, from, to);
    draw.lineWidth = thick;
    draw.strokeStyle = color;
    draw.stroke();
  };

  let inner = radius;
  if (threshold.show) {
    let from = START;
    for (const { value: end, color } of threshold.values) {
      const to = angle(end);
      arc(radius, threshold.width, from, to, color);
      from = to;
    }
    inner -= threshold.width + 1;
  }
  arc(inner, gauge.width, START, END, gauge.background.color);
  arc(inner, gauge.width, START, angle(data[0][1]), value.color);

  draw.font = `500 ${value.font.size}px ${value.font.family}`;
  draw.fillStyle = value.color;
  draw.textAlign = 'center';
  draw.textBaseline = 'middle';
  draw.fillText(value.formatter(), centre.x, centre.y - value.font.size / 8);
  // What is drawn can be read as well.
  element.setAttribute('aria-label', value.formatter());
}

Object.assign($, { plot });
