import { useStreamContext } from "@langchain/langgraph-sdk/react-ui";
import { shared } from "shared-with-the-page";
import "./ui.css";

function Weather({ city, degrees }: { city: string; degrees?: number }) {
  const { messages } = useStreamContext();
  return (
    <p className="weather" title={shared}>
      {city}: {degrees} °C, after {messages.length} messages
    </p>
  );
}

export default { weather: Weather };
